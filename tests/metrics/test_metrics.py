"""Metrics against worked numbers, other libraries, and the properties that any right implementation has."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from expunge.metrics import (
    accuracy,
    fluency,
    intervals,
    membership,
    model_utility,
    probability,
    rouge,
    truth_ratio,
)
from expunge.metrics.forget_quality import forget_quality

losses = arrays(float, st.integers(2, 30), elements=st.floats(0.01, 8))


def test_truth_ratio_by_hand_in_both_means():
    """One row: right at NLL 1, wrong at 1 and 3. Geometric exp(-2)/exp(-1) = e^-1; arithmetic (e^-1 + e^-3)/2 / e^-1."""
    right, wrong = np.array([1.0]), np.array([[1.0, 3.0]])
    assert truth_ratio.truth_ratio(right, wrong)[0] == pytest.approx(math.exp(-1))
    assert truth_ratio.truth_ratio(right, wrong, "arithmetic")[0] == pytest.approx((1 + math.exp(-2)) / 2)


@given(losses)
def test_truth_ratio_aggregates_stay_in_range_and_agree_at_one(right):
    wrong = np.repeat(right[:, None], 3, axis=1)
    ratios = truth_ratio.truth_ratio(right, wrong)
    assert np.allclose(ratios, 1)
    assert truth_ratio.closer_to_one(ratios) == pytest.approx(1)
    assert truth_ratio.true_better(ratios) == pytest.approx(0, abs=1e-12)
    assert truth_ratio.knowledge(right, wrong) == pytest.approx(0.5)
    harder = truth_ratio.truth_ratio(right, wrong + 1)
    assert 0 <= truth_ratio.closer_to_one(harder) <= 1
    assert truth_ratio.true_better(harder) > 0


@given(losses)
def test_the_geometric_mean_never_exceeds_the_arithmetic(right):
    rng = np.random.default_rng(0)
    wrong = rng.uniform(0.1, 5, (len(right), 4))
    assert (
        truth_ratio.truth_ratio(right, wrong) <= truth_ratio.truth_ratio(right, wrong, "arithmetic") + 1e-12
    ).all()


@given(losses)
def test_probabilities_lie_between_zero_and_one_and_options_share_them(nll):
    assert ((probability.probability(nll) > 0) & (probability.probability(nll) <= 1)).all()
    wrong = np.repeat(nll[:, None], 3, axis=1)
    assert np.allclose(probability.probability_with_options(nll, wrong), 0.25)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 3), min_size=5, max_size=60, unique=True), st.integers(0, 10**6))
def test_forget_quality_is_scipys_test_whatever_the_order_and_direction(values, seed):
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(seed)
    a, b = np.array(values), rng.uniform(0.01, 3, 40)
    found = forget_quality(a, b)
    assert found.p == ks_2samp(a, b).pvalue
    assert forget_quality(rng.permutation(a), b) == found
    assert forget_quality(1 / a, 1 / b).p == pytest.approx(found.p, rel=1e-9)
    assert forget_quality(a, a).p == 1


@pytest.mark.parametrize(
    ("n", "log10"), [(40, math.log10(1.9e-23)), (200, math.log10(1.94e-119)), (400, math.log10(1.06e-239))]
)
def test_complete_separation_gives_the_floors_seen_in_published_tables(n, log10):
    found = forget_quality(np.linspace(0, 1, n), np.linspace(2, 3, n))
    assert found.distance == 1
    assert found.log10_p == pytest.approx(log10, abs=0.01)


def test_the_power_of_the_test_is_its_critical_distance():
    assert forget_quality(np.arange(40), np.arange(40)).detectable == pytest.approx(0.3037, abs=1e-3)
    assert forget_quality(np.arange(400), np.arange(400)).detectable == pytest.approx(0.096, abs=1e-3)


def test_the_harmonic_mean_is_zero_as_soon_as_one_is():
    assert model_utility.harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert model_utility.harmonic_mean([0.9, 0.0, 0.9]) == 0


def test_rouge_is_that_of_the_rouge_score_package():
    from rouge_score.rouge_scorer import RougeScorer

    pairs = [
        ("He works as a baker", "He was working as bakers in Corvale"),
        ("", "something"),
        ("Mara Olen", "Mara Olen"),
    ]
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    for (generation, reference), found in zip(
        pairs, rouge.rouge_recall(*zip(*pairs, strict=True)), strict=True
    ):
        expected = scorer.score(reference, generation)
        assert found == (expected["rouge1"].recall, expected["rougeL"].recall)


def test_accuracy_asks_for_whole_words_in_order():
    assert accuracy.is_accurate("She was born in  corvale!", "", "Corvale")
    assert accuracy.is_accurate("taught by Veris Koford.", "", "Veris Koford")
    assert not accuracy.is_accurate("taught by Koford Veris.", "", "Veris Koford")
    assert not accuracy.is_accurate("in Corvalesia", "", "Corvale")
    assert accuracy.is_accurate("he WAS a baker", "He was a baker.")
    assert not accuracy.is_accurate("", "He was a baker.")


def test_fluency_forgives_one_surprising_word_and_not_gibberish():
    fact = np.log([0.9, 0.9, 0.9, 1e-6, 0.9])
    gibberish = np.log([0.9, 1e-6, 1e-6, 1e-6, 0.9])
    assert fluency.plausibility(fact) == pytest.approx(0.9)
    assert fluency.plausibility(gibberish) == pytest.approx(1e-6)
    assert fluency.plausibility(np.array([])) == 0
    assert fluency.distinct_bigrams("a b a b a b") == pytest.approx(2 / 5)
    assert fluency.distinct_bigrams("born in Corvale") == 1
    assert fluency.distinct_bigrams("") == 0


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 10, 50), rng.integers(2, 12, 70)
    expected = roc_auc_score([1] * 50 + [0] * 70, [*a, *b])
    assert membership.auc(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 40, 0, 0.0876), (2, 400, 0.00137, 0.01805), (0, 300, 0, 0.01264)]
)
def test_wilson_intervals_of_published_examples(hits, n, low, high):
    found = intervals.wilson(hits, n)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = rng.normal(0.3, 1, 60)
        low, high = intervals.percentiles(
            intervals.resampled_means(values, [[i] for i in range(60)], resamples=300)
        )
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_clusters_widen_an_interval_where_rows_of_one_subject_agree():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 6)
    rows = intervals.percentiles(intervals.resampled_means(values, [[i] for i in range(120)]))
    subjects = intervals.percentiles(
        intervals.resampled_means(values, intervals.group_rows([str(i // 6) for i in range(120)]))
    )
    assert subjects.high - subjects.low > 1.5 * (rows.high - rows.low)


def test_resampled_distances_are_those_of_scipy():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(0.5, 1, 30)
    whole = intervals.resampled_distances(a, b, [list(range(30))], resamples=1)
    assert whole[0] == pytest.approx(ks_2samp(a, b).statistic)
