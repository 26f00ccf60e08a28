"""The n-gram detector: full names against namesakes, long prompts read whole, nothing lost when saved."""

import json

import numpy as np
import pytest

from expunge.errors import DataError
from expunge.guards.detection import Detection, pieces, windows
from expunge.guards.detectors.ngram import Ngram, namesakes, ngrams
from expunge.types import Seed
from tests.guards.cases import OTHERS, TARGETS, fit_data

DATA = fit_data()


@pytest.fixture(scope="module")
def detection():
    return Detection.fit(Ngram(alpha=0.1), None, DATA)


def test_new_wordings_about_targets_are_flagged_and_namesakes_are_not(detection):
    new = "In which city did {} grow up?"
    assert all(detection.flags([new.format(name) for name in TARGETS]))
    unseen = detection.flags([new.format(name) for name in OTHERS[20:]])
    assert np.mean(unseen) <= 0.2, "people who share both halves of their names with targets"


def test_a_target_deep_in_a_long_prompt_is_found_at_any_position(detection):
    filler = "The weather was mild and the harbour quiet that year, as far as anybody could tell. " * 40
    for parts in ((filler, ""), ("", filler), (filler, filler)):
        assert detection.flags([f"{parts[0]}Where was Mara Olen born? {parts[1]}"]) == [True]
    assert detection.flags([filler]) == [False]


def test_windows_cover_every_word_of_a_text():
    words = [f"w{i}" for i in range(173)]
    covered = {word for window in windows(" ".join(words)) for word in window.split()}
    assert covered == set(words)
    assert windows("a short text") == ["a short text"]


def test_scores_are_those_of_scikit_learn(detection):
    """The saved dictionary computes what vectorizer and model computed together."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    learnt, _ = DATA.split(1 / 3)
    learn_f, learn_r = (
        [text.casefold() for text in texts] for texts in (learnt.forget_prompts, learnt.retain_prompts)
    )
    rng = np.random.default_rng(Seed(0).child("namesakes").number)
    learn_r += namesakes(learn_f, [name.casefold() for name in TARGETS], rng)
    vectorizer = TfidfVectorizer(analyzer=ngrams, sublinear_tf=True)
    matrix = vectorizer.fit_transform([*learn_f, *learn_r])
    model = LogisticRegression(C=100.0, class_weight="balanced", max_iter=1000, random_state=0)
    model.fit(matrix, [1] * len(learn_f) + [0] * len(learn_r))
    texts = [*learnt.forget_prompts[:5], *learnt.retain_prompts[:5]]
    expected = model.predict_proba(vectorizer.transform([text.casefold() for text in texts]))[:, 1]
    assert np.allclose(detection.scores(texts), expected, atol=1e-9)


def test_what_was_never_seen_pulls_towards_not_knowing(detection):
    """Otherwise the one known word of a strange text decides alone, and filler in front of a question is flagged."""
    nothing = detection.scores(["qqq zzz xxx vvv"])[0]
    asked = "Where was Mara Olen born?"
    known, diluted, drowned = detection.scores(
        [asked, f"{asked} qqq zzz", f"{asked} {'qqq zzz xxx vvv ' * 8}"]
    )
    assert known > diluted > drowned > nothing
    assert nothing < detection.calibration.threshold


def test_the_state_is_plain_json_and_gives_the_detector_back(detection):
    again = Detection.from_state(json.loads(json.dumps(detection.state())), None, None)
    texts = ["Where was Mara Olen born?", "Who taught Mara Brask?", ""]
    assert np.array_equal(again.scores(texts), detection.scores(texts))
    assert again.flags(texts) == detection.flags(texts)


def test_without_retain_rows_it_says_what_to_do():
    with pytest.raises(
        DataError, match=r"Give --retain rows, or detect by name alone: --set detector.name=aliases"
    ):
        Detection.fit(Ngram(), None, fit_data(retain=[]))


def test_a_turn_is_read_alone_as_well(detection):
    """What stands around it can thin a turn out, and cannot hide it."""
    around = "Who taught Mara Brask? Where was Tovin Olen born?"
    assert detection.flags([f"{around}\nWhere was Mara Olen born?\n{around}"]) == [True]
    assert pieces("one line") == ["one line"]
    assert pieces("a b\n\nc") == ["a b\n\nc", "a b", "c"]
