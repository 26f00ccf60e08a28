"""AUROC and detection at few false alarms against scikit-learn; effect sizes against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.benchmarks._figures import resampled
from expunge.metrics import membership
from expunge.metrics.effect_size import cliffs_delta, common_language
from expunge.metrics.roc import auroc, smallest_fpr, tpr_at_fpr, why_unresolved

scores = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@settings(deadline=None)
@given(scores, scores)
def test_the_area_is_scikit_learns_with_ties_and_the_table_of_pairs(a, b):
    from sklearn.metrics import roc_auc_score

    a, b = np.array(a, float), np.array(b, float)
    found = auroc(a, b)
    assert found == pytest.approx(roc_auc_score([1] * len(a) + [0] * len(b), [*a, *b]), abs=1e-12)
    pairs = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
    assert found == pytest.approx(pairs, abs=1e-12)
    assert membership.auc(a, b) == found


@settings(deadline=None)
@given(
    scores,
    st.lists(st.integers(0, 9), min_size=20, max_size=60),
    st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]),
)
def test_the_detection_rate_is_the_highest_of_scikit_learns_curve_within_the_rate(a, b, fpr):
    from sklearn.metrics import roc_curve

    falses, trues, _ = roc_curve([1] * len(a) + [0] * len(b), [*a, *b], drop_intermediate=False)
    expected = trues[falses <= fpr + 1e-9].max()
    assert tpr_at_fpr(np.array(a), np.array(b), fpr) == pytest.approx(expected, abs=1e-12)


def test_a_million_scores_take_no_table_of_all_pairs():
    rng = np.random.default_rng(0)
    assert auroc(rng.normal(size=300_000), rng.normal(size=300_000)) == pytest.approx(0.5, abs=0.01)


def test_scores_of_minus_infinity_rank_lowest():
    assert auroc(np.array([-np.inf, 1.0]), np.array([-np.inf, 0.0])) == pytest.approx((0.5 + 0 + 1 + 1) / 4)


def test_too_few_negatives_give_no_rate_but_the_reason():
    """20 negatives: one false alarm is 5 %, so 1 % cannot be seen; 100 would do."""
    a, b = np.arange(10.0), np.arange(20.0)
    assert smallest_fpr(20) == 0.05
    assert why_unresolved(20, 0.05) == ""
    assert why_unresolved(100, 0.01) == ""
    assert "at least 100" in why_unresolved(20, 0.01)
    assert tpr_at_fpr(a, b, 0.05) == 0
    with pytest.raises(ValueError, match=r"20 negatives resolve no false-positive rate below 0\.05"):
        tpr_at_fpr(a, b, 0.01)


def test_the_effect_size_is_scipys_u_and_does_not_shrink_with_n_as_p_does():
    from scipy.stats import ks_2samp, mannwhitneyu

    rng = np.random.default_rng(1)
    a, b = rng.normal(0.4, 1, 60), rng.normal(0, 1, 45)
    assert common_language(a, b) == pytest.approx(mannwhitneyu(a, b).statistic / (60 * 45))
    assert cliffs_delta(a, b) == pytest.approx(((a[:, None] > b).sum() - (a[:, None] < b).sum()) / (60 * 45))
    assert cliffs_delta(b, a) == pytest.approx(-cliffs_delta(a, b))
    assert cliffs_delta(np.exp(a), np.exp(b)) == cliffs_delta(a, b)
    many = np.tile(a, 20), np.tile(b, 20)
    assert cliffs_delta(*many) == pytest.approx(cliffs_delta(a, b))
    assert ks_2samp(*many).pvalue < 1e-6 < ks_2samp(a, b).pvalue


def test_intervals_over_groups_cover_the_true_area_about_as_often_as_promised():
    """Normal scores a standard deviation apart have an area of Φ(1/√2) = 0.760; groups of three equal rows count as one."""
    rng = np.random.default_rng(2)
    groups = [list(range(i, i + 3)) for i in range(0, 120, 3)]
    covered = 0
    for _ in range(60):
        a, b = np.repeat(rng.normal(1, 1, 40), 3), np.repeat(rng.normal(0, 1, 40), 3)
        found = resampled([(a, groups), (b, groups)], auroc, 150)
        covered += found.low <= 0.7602 <= found.high
    assert covered >= 51
