"""The default detector: any part is enough, one threshold holds for all, and nothing falls back without a word."""

import numpy as np
import pytest

from expunge.errors import ConfigError, DataError, ModelError
from expunge.guards.detection import Detection
from expunge.guards.detectors.aliases import Aliases
from expunge.guards.detectors.ngram import Ngram
from expunge.guards.detectors.union import FittedUnion, Scaled, Union
from expunge.guards.guard import Guard
from expunge.recipes import recipe
from tests.guards.cases import FORGET, OTHERS, RETAIN, TARGETS, fit_data

PARTS = {"aliases": {}, "ngram": {}}


class Fixed:
    """A detector with given scores."""

    def __init__(self, **scores):
        self.by_text = scores

    def scores(self, texts):
        return np.array([self.by_text[text] for text in texts])


def scaled(mean=0.0, spread=1.0, **scores):
    return Scaled(Detection.uncalibrated(Aliases(), Fixed(**scores)), mean, spread)


def test_the_score_is_the_highest_part_on_the_common_scale_and_what_cannot_be_told_wins():
    """Part b is measured in steps of 10: its 25 is (25 - 5) / 10 = 2."""
    union = FittedUnion({"a": scaled(x=1.0, y=3.0, z=np.nan), "b": scaled(5.0, 10.0, x=25.0, y=5.0, z=0.0)})
    scores = union.scores(["x", "y", "z"])
    assert scores[:2].tolist() == [2.0, 3.0]
    assert np.isnan(scores[2])


@pytest.fixture(scope="module")
def detection():
    return Detection.fit(Union(alpha=0.1, parts=PARTS), None, fit_data())


def test_what_one_part_misses_the_other_finds(detection):
    ngram = Detection.fit(Ngram(alpha=0.1), None, fit_data())
    odd = ["M4r4 0len", "Of the lady whom Tovin called Olen, Mara, nothing is known"]
    assert all(detection.flags(odd))
    assert not all(ngram.flags(odd))


def test_the_promised_rates_hold_for_the_parts_together():
    """Averaged over splits, on prompts that no part learnt from and no threshold was set on."""
    missed, alarms = [], []
    for seed in range(6):
        data = fit_data(seed=seed)
        learnt, new = data.split(0.3)
        found = Detection.fit(Union(alpha=0.2, parts=PARTS), None, learnt)
        missed.append(1 - np.mean(found.flags(new.forget_prompts)))
        alarms.append(np.mean(found.flags(new.retain_prompts)))
    assert np.mean(missed) <= 0.2
    assert np.mean(alarms) <= 0.2


def test_unknown_namesakes_pass(detection):
    new = "In which city did {} grow up?"
    assert np.mean(detection.flags([new.format(name) for name in OTHERS[20:]])) <= 0.2


def test_a_name_alone_is_enough_where_there_are_no_rows_and_no_rate_is_promised():
    found = Detection.fit(Union(parts=PARTS), None, fit_data([], [], ["Mara Olen"]))
    assert list(found.fitted.parts) == ["aliases"]
    assert found.calibration.alpha is None
    assert found.flags(["Who is mara olen?", "Who is Mara Brask?"]) == [True, False]
    with pytest.raises(DataError, match="nothing to calibrate it on"):
        Detection.fit(Union(parts=PARTS, alpha=0.05), None, fit_data([], [], ["Mara Olen"]))


def test_rows_without_names_leave_the_parts_that_learn():
    found = Detection.fit(Union(alpha=0.1, parts=PARTS), None, fit_data(names=[]))
    assert list(found.fitted.parts) == ["ngram"]


def test_neither_names_nor_rows_of_both_kinds_is_refused():
    with pytest.raises(ConfigError, match="none of its parts"):
        Detection.fit(Union(parts=PARTS), None, fit_data(FORGET, [], []))


def test_the_state_gives_the_same_decisions_back(detection):
    again = Detection.from_state(detection.state(), None, None)
    texts = [*FORGET[:5], *RETAIN[:5], *TARGETS, ""]
    assert np.array_equal(again.scores(texts), detection.scores(texts))


def test_a_part_that_looks_into_the_model_is_refused_before_an_endpoint(lm):
    class Answers:
        capabilities = frozenset()

    made = recipe("refuse", detector={"parts": {"probe": {}}})
    with pytest.raises(ModelError, match="detector 'probe' looks into the model"):
        Guard.fit(Answers(), fit_data(), made)
