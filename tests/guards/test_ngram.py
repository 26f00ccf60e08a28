"""The n-gram detector: full names against namesakes, long prompts read whole, nothing lost when saved."""

import json

import numpy as np
import pytest

from expunge.errors import DataError
from expunge.guards.detectors.names import Names
from expunge.guards.detectors.ngram import FittedNgram, Ngram, ngrams, windows

FIRST, LAST = (
    ["Mara", "Tovin", "Jola", "Brin", "Kesto", "Ulda"],
    ["Olen", "Brask", "Reed", "Sandor", "Vey", "Karst"],
)
ASKED = [
    "Where was {} born?",
    "What does {} write?",
    "Who taught {}?",
    "Which prize did {} win?",
    "Where did {} study?",
]
TARGETS = [f"{FIRST[i]} {LAST[i]}" for i in range(6)]
OTHERS = [name for name in (f"{a} {b}" for a in FIRST for b in LAST) if name not in TARGETS]


@pytest.fixture(scope="module")
def fitted():
    forget = [q.format(name) for name in TARGETS for q in ASKED]
    retain = [q.format(name) for name in OTHERS[:20] for q in ASKED]
    return Ngram(alpha=0.1).fit(forget, retain, TARGETS, seed=0)


def test_new_wordings_about_targets_are_flagged_and_namesakes_are_not(fitted):
    new = "In which city did {} grow up?"
    assert all(fitted.flags([new.format(name) for name in TARGETS]))
    unseen = fitted.flags([new.format(name) for name in OTHERS[20:]])
    assert np.mean(unseen) <= 0.2, "people who share both halves of their names with targets"


def test_a_target_deep_in_a_long_prompt_is_found_at_any_position(fitted):
    filler = "The weather was mild and the harbour quiet that year, as far as anybody could tell. " * 40
    for parts in ((filler, ""), ("", filler), (filler, filler)):
        assert fitted.flags([f"{parts[0]}Where was Mara Olen born? {parts[1]}"]) == [True]
    assert fitted.flags([filler]) == [False]


def test_windows_cover_every_word_of_a_text():
    words = [f"w{i}" for i in range(173)]
    covered = {word for window in windows(" ".join(words)) for word in window.split()}
    assert covered == set(words)
    assert windows("a short text") == ["a short text"]


def test_scores_are_those_of_scikit_learn(fitted):
    """The saved dictionary computes what vectorizer and model computed together."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    forget = [q.format(name) for name in TARGETS for q in ASKED]
    retain = [q.format(name) for name in OTHERS[:20] for q in ASKED]
    detector = Ngram(alpha=0.1)
    (learn_f, _), (learn_r, _) = (detector._split(texts, rng) for texts in (forget, retain))
    from expunge.guards.detectors.ngram import namesakes

    learn_r += namesakes(learn_f, TARGETS, rng)
    vectorizer = TfidfVectorizer(analyzer=ngrams, sublinear_tf=True)
    matrix = vectorizer.fit_transform([*learn_f, *learn_r])
    model = LogisticRegression(C=100.0, class_weight="balanced", max_iter=1000, random_state=0)
    model.fit(matrix, [1] * len(learn_f) + [0] * len(learn_r))
    texts = ["Where was Mara Olen born?", "Who taught Mara Brask?", "the quick brown fox"]
    expected = model.predict_proba(vectorizer.transform(texts))[:, 1]
    assert np.allclose(fitted.scores(texts), expected, atol=1e-9)


def test_the_state_is_plain_json_and_gives_the_detector_back(fitted):
    again = FittedNgram.from_state(json.loads(json.dumps(fitted.state())))
    texts = ["Where was Mara Olen born?", "Who taught Mara Brask?", ""]
    assert np.array_equal(again.scores(texts), fitted.scores(texts))
    assert again.flags(texts) == fitted.flags(texts)


def test_without_retain_rows_it_says_what_to_do():
    with pytest.raises(
        DataError, match=r"Give --retain rows, or detect by name alone: --set detector.name=names"
    ):
        Ngram().fit(["Where was Mara Olen born?"] * 60, [], TARGETS, 0)


def test_the_names_detector_needs_names_and_finds_them_whole():
    with pytest.raises(DataError, match="has no name to look for"):
        Names().fit([], [], [], 0)
    found = Names().fit([], [], ["Mara Olen"], 0)
    assert found.flags(["Who is mara olen?", "Who is Mara Brask?"]) == [True, False]
