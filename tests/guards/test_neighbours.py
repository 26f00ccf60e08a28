"""Nearest neighbours: cosines as they are by definition, many owners in one matrix, and a withdrawal that leaves no trace."""

import json
import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest

from expunge.data.dataset import Record
from expunge.errors import DataError, ModelError
from expunge.guards.detection import Detection
from expunge.guards.detectors.neighbour import FittedNeighbour, Neighbour
from expunge.guards.neighbours import WIDTH, HashedNgrams, NeighbourIndex
from expunge.guards.ngrams import ngrams_by_kind
from expunge.guards.state import read_state, write_state
from expunge.metrics.intervals import wilson
from tests.guards.cases import ASKED, FORGET, OTHERS, RETAIN, TARGETS, fit_data

ENCODER = HashedNgrams.fit([text.casefold() for text in RETAIN])
OWNERS = {name: [question.format(name).casefold() for question in ASKED] for name in [*TARGETS, *OTHERS[:10]]}


class Axes:
    """An encoder of which everything is known: a text is its vector."""

    def pieces(self, text):
        return text.split("|")

    def encode(self, texts):
        rows = np.array([json.loads(text) for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def state(self):
        return {}


def index_of(owners, encoder=ENCODER):
    index = NeighbourIndex(encoder)
    for owner, texts in owners.items():
        index.add(owner, texts)
    return index


# --- the encoder ----------------------------------------------------------------------------------------------------
def test_hashed_cosines_are_those_of_counting_without_a_hash():
    """Against scikit-learn's counts: the mean over the three kinds, each with idf from other texts and sublinear counts."""
    from sklearn.feature_extraction.text import CountVectorizer

    texts = [
        "who taught mara olen, and who taught mara?",
        "where was mara olen born?",
        "who taught tovin brask?",
    ]
    known = ["where was jola reed born?", "who taught jola reed?", "who taught brin vey?"]
    expected, buckets, every = [], set(), 0
    for kind in range(3):
        counter = CountVectorizer(analyzer=lambda text, kind=kind: ngrams_by_kind(text)[kind])
        counter.fit([*texts, *known])
        grams = counter.get_feature_names_out()
        buckets |= {crc32(gram.encode(), kind) % WIDTH for gram in grams}
        every += len(grams)
        counts, seen = counter.transform(texts).toarray(), counter.transform(known).toarray() > 0
        rows = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0)
        rows = rows * (np.log((1 + len(known)) / (1 + seen.sum(0))) + 1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        expected.append(rows @ rows.T)
    assert len(buckets) == every, "no two share a bucket here"
    found = HashedNgrams.fit(known).encode(texts)
    assert np.allclose((found @ found.T).toarray(), np.mean(expected, axis=0), atol=1e-6)


def test_the_hash_is_the_same_in_another_process_with_another_hash_seed():
    code = "from expunge.guards.neighbours import HashedNgrams as H; r = H.fit([]).encode(['Mara Olen']); print(r.indices.tolist(), r.data.tolist())"
    runs = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    here = HashedNgrams.fit([]).encode(["Mara Olen"])
    assert runs[0] == runs[1] == f"{here.indices.tolist()} {here.data.tolist()}\n"


def test_a_text_without_a_word_is_near_nothing():
    assert index_of(OWNERS).nearest(["", "?!"]) == [(0.0, sorted(OWNERS)[0])] * 2


# --- the index --------------------------------------------------------------------------------------------------------
def test_the_same_text_is_at_cosine_one_and_names_its_owner():
    index = index_of(OWNERS)
    for owner, texts in OWNERS.items():
        for score, found in index.nearest(texts):
            assert score == pytest.approx(1, abs=1e-6)
            assert found == owner


def test_the_nearest_is_the_largest_cosine_over_all_rows():
    owners = {"a": ["[1, 0, 0]", "[1, 1, 0]"], "b": ["[0, 0, 1]"], "c": ["[-1, 0, 0]"]}
    found = index_of(owners, Axes()).nearest(["[2, 1, 0]", "[0, 1, 5]", "[-3, -1, -1]"])
    assert [owner for _, owner in found] == ["a", "b", "c"]
    assert np.allclose([score for score, _ in found], [3 / 10**0.5, 5 / 26**0.5, 3 / 11**0.5])


def test_a_text_in_pieces_is_as_near_as_its_nearest_piece():
    index = index_of({"a": ["[1, 0]"]}, Axes())
    assert index.nearest(["[0, 1]|[1, 0]|[1, 1]", "[0, 1]"]) == [(1.0, "a"), (0.0, "a")]


def test_a_row_that_is_no_number_is_not_hidden():
    assert np.isnan(index_of({"a": ["[1, 0]"], "b": ["[0, 1]"]}, Axes()).nearest(["[1, 0]|[NaN, 0]"])[0][0])


def test_an_empty_index_is_near_nothing():
    assert NeighbourIndex(ENCODER).nearest(["where was mara olen born?"]) == [(0.0, "")]


def test_the_order_in_which_owners_come_changes_no_bit():
    asked = [f"in which city was {name} born?".casefold() for name in TARGETS + OTHERS]
    forth = index_of(OWNERS).nearest(asked)
    assert index_of(dict(reversed(OWNERS.items()))).nearest(asked) == forth


@pytest.mark.parametrize("gone", [sorted(OWNERS)[0], sorted(OWNERS)[7]])
def test_a_withdrawn_request_leaves_every_score_as_it_was_before_it_came(gone):
    asked = [f"in which city was {name} born?".casefold() for name in TARGETS + OTHERS]
    index = index_of({owner: texts for owner, texts in OWNERS.items() if owner != gone})
    before = index.nearest(asked)
    index.add(gone, OWNERS[gone])
    assert index.nearest(asked) != before
    index.remove(gone)
    assert index.nearest(asked) == before


def test_more_texts_of_an_owner_stand_beside_those_it_has():
    index = index_of({"a": ["[1, 0]"]}, Axes())
    index.add("a", ["[0, 1]"])
    assert index.nearest(["[1, 0]", "[0, 1]"]) == [(1.0, "a"), (1.0, "a")]


@pytest.mark.parametrize(
    ("owners", "encoder"), [(OWNERS, ENCODER), ({"a": ["[1, 2]"], "b": ["[2, 1]"]}, Axes())]
)
def test_an_index_comes_back_from_disk_bit_for_bit(tmp_path, owners, encoder):
    index = index_of(owners, encoder)
    write_state(tmp_path, index.state())
    again = NeighbourIndex.from_state(read_state(tmp_path), encoder)
    asked = [text for texts in owners.values() for text in texts]
    assert again.nearest(asked) == index.nearest(asked)


# --- the detector -----------------------------------------------------------------------------------------------------
def by_subject(names=TARGETS):
    return [
        Record(f"{name}-{i}", question=question.format(name), answer="x", subject=name, group=name)
        for name in names
        for i, question in enumerate(ASKED)
    ]


def fitted(contrast=0.9, forget=None, **settings):
    return Neighbour(contrast=contrast, **settings).fit(None, fit_data(forget or by_subject()))


NEW = ["In which city did {} grow up?", "Tell me who {} was taught by.", "{}: which prizes?"]


@pytest.fixture(scope="module")
def detection():
    return Detection.fit(Neighbour(alpha=0.1), None, fit_data())


def test_the_score_is_the_nearest_forget_prompt_over_what_the_hard_negatives_leave():
    """f = 0.8, r = 0.6, κ = 0.9: 0.8 / (0.1 + 0.54); a negative cosine counts as none."""
    forget, hard = index_of({"a": ["[4, 3]"]}, Axes()), index_of({"": ["[3, 4]"]}, Axes())
    scores = FittedNeighbour(forget, hard, 0.9).scores(["[1, 0]", "[-1, 0]", "[1, 0]|[-1, 0]"])
    assert np.allclose(scores, [0.8 / 0.64, 0, 0.8 / 0.64])


def test_a_stored_prompt_scores_one_and_nothing_scores_more_without_contrast():
    plain = fitted(contrast=0)
    assert np.allclose(plain.scores([text.casefold() for text in FORGET]), 1, atol=1e-6)
    others = [question.format(name).casefold() for question in NEW for name in TARGETS + OTHERS]
    assert plain.scores(others).max() < 1


def test_a_stored_prompt_scores_at_least_one_whatever_the_hard_negatives_are():
    assert fitted().scores([text.casefold() for text in FORGET]).min() >= 1 - 1e-6


def test_more_forget_prompts_never_lower_a_score_without_contrast():
    asked = [question.format(name).casefold() for question in NEW for name in TARGETS + OTHERS]
    detector = fitted(contrast=0, forget=by_subject(TARGETS[:1]))
    before = detector.scores(asked)
    for name in TARGETS[1:]:
        detector.forget.add(name, OWNERS[name])
        now = detector.scores(asked)
        assert (now >= before).all()
        before = now


def test_a_withdrawn_subject_takes_its_prompts_and_its_name_along():
    asked = [question.format(name).casefold() for question in NEW for name in TARGETS + OTHERS]
    detector = fitted(contrast=0)
    detector.forget.remove(TARGETS[2])
    kept = [record for record in by_subject() if record.subject != TARGETS[2]]
    names = [name for name in TARGETS if name != TARGETS[2]]
    assert np.array_equal(
        detector.scores(asked), Neighbour(contrast=0).fit(None, fit_data(kept, names=names)).scores(asked)
    )


def test_new_wordings_about_targets_are_flagged_and_namesakes_are_not(detection):
    for question in NEW:
        assert all(detection.flags([question.format(name) for name in TARGETS])), question
        alarms = detection.flags([question.format(name) for name in OTHERS[20:]])
        assert np.mean(alarms) <= 0.2, "people who share both halves of their names with targets"


def test_hard_negatives_carry_the_method():
    """The paper's rule alone cannot tell a new wording about a target from an old one about a namesake."""
    plain = Detection.fit(Neighbour(alpha=0.1, contrast=0), None, fit_data())
    missed = [
        not flag for question in NEW for flag in plain.flags([question.format(name) for name in TARGETS])
    ]
    alarms = plain.flags([question.format(name) for question in ASKED for name in OTHERS[20:]])
    assert np.mean(missed) + np.mean(alarms) > 0.5


def test_prompts_that_have_nothing_to_do_with_it_score_next_to_nothing(detection):
    chat = ["What is the capital of France?", "Write a poem about the sea.", "hi", "", "print(1 + 1)"]
    assert detection.scores(chat).max() < 0.8 < detection.calibration.threshold
    assert not any(detection.flags(chat))


def test_the_rate_of_false_alarms_on_unrelated_prompts_is_within_its_interval_of_the_target():
    """1,000 prompts drawn like the retain prompts; forget and retain overlap so much that the threshold is at work."""
    rng = np.random.default_rng(0)
    parts = ["ka", "ro", "mi", "sol", "bar", "lu", "vek", "dor", "pel", "gri", "tha", "nem"]

    def name():
        return " ".join("".join(rng.choice(parts, 2)).capitalize() for _ in range(2))

    people = [name() for _ in range(260)]
    pool = list(dict.fromkeys(question.format(person) for person in people for question in ASKED))
    pool = [pool[i] for i in rng.permutation(len(pool))]
    forget = [question.format(person) for person in [name() for _ in range(12)] for question in ASKED]
    detection = Detection.fit(Neighbour(alpha=0.1), None, fit_data(forget, pool[:240], []))
    unrelated = pool[240:1240]
    assert len(unrelated) == 1000
    low, _ = wilson(sum(detection.flags(unrelated)), len(unrelated))
    assert low <= 0.1
    assert detection.calibration.both_hold


def test_a_target_deep_in_a_long_prompt_is_found(detection):
    filler = "The weather was mild and the harbour quiet that year, as far as anybody could tell. " * 10
    assert detection.flags([f"{filler} Where was Mara Olen born? {filler}", filler]) == [True, False]


def test_the_state_gives_the_detector_back_bit_for_bit(detection, tmp_path):
    write_state(tmp_path, detection.state())
    again = Detection.from_state(read_state(tmp_path), None, None)
    texts = [*FORGET[:5], *RETAIN[:5], "In which city did Mara Olen grow up?", ""]
    assert np.array_equal(again.scores(texts), detection.scores(texts))
    assert again.flags(texts) == detection.flags(texts)


def test_no_text_stands_in_the_state(detection, tmp_path):
    write_state(tmp_path, detection.fitted.forget.state() | detection.fitted.hard.state())
    assert "born" not in (tmp_path / "guard.json").read_text()


def test_rows_of_another_encoder_are_refused(detection):
    state = detection.state()
    state["state"] = state["state"] | {"encoder": {"idf": ENCODER.idf[::-1].copy()}}
    with pytest.raises(ModelError, match=r"its stored rows mean nothing.\nPut the encoder of that time back"):
        Detection.from_state(state, None, None)


def test_without_retain_rows_it_says_what_to_do():
    with pytest.raises(
        DataError, match=r"Give --retain rows, or detect by name alone: --set detector.name=names"
    ):
        Detection.fit(Neighbour(), None, fit_data(retain=[]))


def test_rows_that_only_name_a_subject_are_stored_as_the_name():
    rows = [*FORGET[5:], Record("s", subject="Mara Olen", group="Mara Olen")]
    found = Neighbour(contrast=0).fit(None, fit_data(rows, names=["Mara Olen"]))
    assert found.scores(["mara olen"]) == pytest.approx([1], abs=1e-6)
