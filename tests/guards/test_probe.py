"""The probe: it learns what the states tell apart, its state is arrays, and it says what it lacks."""

import numpy as np
import pytest

from expunge.errors import ConfigError, DataError
from expunge.guards.detection import Detection
from expunge.guards.detectors.probe import FittedProbe, Probe
from expunge.guards.state import read_state, write_state
from expunge.models.states import states
from expunge.types import Prompt
from tests.guards.cases import FORGET, OTHERS, RETAIN, fit_data

BAKERS = [f"What did the father of {name} do?" for name in OTHERS]
DATA = fit_data(FORGET, BAKERS)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_its_scores_are_the_log_odds_of_scikit_learn_on_standardised_states(lm, pool):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def read(texts):
        return states(lm, [Prompt.ask(text) for text in texts], 0, pool)

    reference = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.5, class_weight="balanced", max_iter=3000)
    ).fit(read(FORGET + BAKERS).astype(float), [1] * len(FORGET) + [0] * len(BAKERS))
    fitted = Probe(layer=0, pool=pool, regularisation=0.5).fit(lm, DATA)
    texts = [*FORGET[:5], *BAKERS[:5], "the quick brown fox"]
    expected = reference.decision_function(read(texts).astype(float))
    assert np.allclose(fitted.scores(texts), expected, atol=1e-3)
    assert expected[:5].min() > 0 > expected[5:10].max()


def test_prompts_that_it_never_saw_are_told_apart_where_the_states_differ(lm):
    detection = Detection.fit(Probe(), lm, DATA)
    assert detection.calibration.false_alarms / detection.calibration.retain_rows <= 0.1


def test_saved_and_read_again_it_scores_the_same(lm, tmp_path):
    detection = Detection.fit(Probe(pool="mean"), lm, DATA)
    write_state(tmp_path, detection.state())
    again = Detection.from_state(read_state(tmp_path), lm, None)
    assert np.array_equal(again.scores(FORGET), detection.scores(FORGET))
    assert isinstance(again.fitted, FittedProbe)


def test_namesakes_join_the_retain_side_when_asked_for(lm):
    plain, harder = (
        Probe(namesakes=on).fit(lm, fit_data(FORGET, RETAIN)).scores(FORGET) for on in (False, True)
    )
    assert harder.mean() < plain.mean(), "namesakes of every target pull the forget prompts' scores down"


def test_a_long_passage_is_learnt_in_windows_that_the_model_can_read(lm):
    passage = "Mara Olen was born in Corvale. " * 40
    assert len(lm.tokenizer(passage)["input_ids"]) > lm.encoder.max_tokens
    assert len(Probe().fit(lm, fit_data([passage, *FORGET], BAKERS)).weights) == 32


def test_what_it_lacks_is_said(lm):
    with pytest.raises(DataError, match=r"Give --retain rows, or detect by name alone"):
        Probe().fit(lm, fit_data(retain=[]))
    with pytest.raises(ConfigError, match="layer 7: this model has blocks 0 to 1"):
        Probe(layer=7).fit(lm, DATA)
