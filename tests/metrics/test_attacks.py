"""Membership scores by hand, and PrivLeak against its authors' orientation."""

import zlib

import numpy as np
import pytest

from expunge.benchmarks._membership import attack_scores
from expunge.metrics.gradient_norm import gradient_norm_score
from expunge.metrics.loss import loss_score
from expunge.metrics.priv_leak import priv_leak
from expunge.metrics.reference_attack import reference_score
from expunge.metrics.zlib_entropy import zlib_score
from expunge.types import Score

LOGP = np.array([-1.0, -3.0, -0.5, -2.0, -4.0], dtype=np.float32)
Z = np.array([0.1, -1.0, 0.4, -0.2, -9.0], dtype=np.float32)
SCORE = Score(LOGP, np.array([1, 0, 1, 0, 0], bool), z=Z)


def test_each_attack_by_hand():
    assert loss_score(LOGP) == pytest.approx(-2.1)
    assert zlib_score(LOGP, "a text") == pytest.approx(-2.1 / len(zlib.compress(b"a text")))
    assert reference_score(-2.1, -3.0) == pytest.approx(0.9)
    assert gradient_norm_score(3.0) == -3


def test_one_score_gives_every_attack_without_the_end_token():
    """Four tokens: mean -1.625; 40 % of them is one: the lowest, -3 and z -1. The end token's -4 and -9 count nowhere."""
    found = attack_scores(SCORE, "a text", gradient=3.0)
    assert found == {
        "loss": pytest.approx(-1.625),
        "zlib": pytest.approx(-1.625 / len(zlib.compress(b"a text"))),
        "min_k_40": -3.0,
        "min_k++_40": -1.0,
        "gradient_norm": -3.0,
    }
    assert attack_scores(SCORE, "a text", drop_end=False)["min_k_40"] == pytest.approx(-3.5)


def test_where_there_is_no_likelihood_there_is_no_score():
    nothing = {"loss", "zlib", "min_k_40", "min_k++_40", "gradient_norm"}
    for score in (None, Score(LOGP, SCORE.hits, floored=True), Score(LOGP[:1], SCORE.hits[:1], z=Z[:1])):
        assert attack_scores(score, "a text") == dict.fromkeys(nothing)
    assert attack_scores(Score(LOGP, SCORE.hits), "a text")["min_k++_40"] is None


def test_the_shortest_text_has_a_lowest_token_too():
    """MUSE takes int(n k) tokens, which is none of one: not a number."""
    two = Score(LOGP[:2], SCORE.hits[:2], z=Z[:2])
    assert attack_scores(two, "a")["min_k_40"] == -1.0


def test_priv_leak_is_that_of_its_authors_who_call_never_trained_rows_positive():
    """Their score is minus the Min-K loss, so higher for members, and holdout rows are labelled 1: the target's AUC is near 0."""
    from sklearn.metrics import roc_auc_score

    from expunge.metrics.membership import auc

    rng = np.random.default_rng(0)
    ours = rng.normal(0.8, 1, 50), rng.normal(0, 1, 60)
    gold = rng.normal(0.1, 1, 50), rng.normal(0, 1, 60)

    def theirs(members, others):
        return roc_auc_score([0] * len(members) + [1] * len(others), [*members, *others])

    expected = (theirs(*ours) - theirs(*gold)) / theirs(*gold) * 100
    assert priv_leak(auc(*ours), auc(*gold)) == pytest.approx(expected)
    assert priv_leak(1.0, 0.5) == -100
    assert priv_leak(0.5, 0.5) == 0
    assert priv_leak(0.0, 0.5) == 100
