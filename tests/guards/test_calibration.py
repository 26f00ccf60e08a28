"""Thresholds keep their promise on exchangeable prompts, fail closed, and refuse a promise that rows cannot bear."""

import numpy as np
import pytest

from expunge.errors import DataError
from expunge.guards.calibration import calibrate


def test_the_promised_rates_hold_on_average_over_many_draws():
    """Scores of the two classes overlap, so that the thresholds are really at work."""
    rng = np.random.default_rng(0)
    misses, alarms = [], []
    for _ in range(400):
        forget, retain = rng.normal(1.0, 1, 60), rng.normal(-3.0, 1, 80)
        found = calibrate(forget, retain, 0.1)
        misses.append((rng.normal(1.0, 1, 500) < found.threshold).mean())
        if found.both_hold:
            alarms.append((rng.normal(-3.0, 1, 500) >= found.threshold).mean())
    assert np.mean(misses) <= 0.1 + 0.01
    assert np.mean(alarms) <= 0.1


def test_the_miss_threshold_is_the_kth_smallest_forget_score():
    """alpha 0.1 of 20 rows: k = floor(0.1 * 21) = 2, the second smallest."""
    forget = np.arange(20) / 20
    found = calibrate(forget, np.full(20, 0.5), 0.1)
    assert found.threshold == forget[1]
    assert not found.both_hold
    assert found.missed == 1


def test_a_score_that_is_no_number_is_in_scope():
    found = calibrate(np.linspace(0.8, 1, 20), np.linspace(0, 0.2, 20), 0.05)
    assert found.flags(np.array([0.9, 0.1, np.nan])) == [True, False, True]
    assert found.both_hold


def test_too_few_rows_for_the_rate_are_refused_with_what_they_can_bear():
    with pytest.raises(
        DataError,
        match=r"10 forget rows are left to calibrate the detector; a rate of 0.05 needs at least 19",
    ):
        calibrate(np.ones(10), np.zeros(100), 0.05)
    with pytest.raises(DataError, match=r"detector.alpha=0.1"):
        calibrate(np.ones(100), np.zeros(10), 0.05)


def test_without_a_rate_the_usual_one_is_promised_or_the_least_that_rows_bear():
    assert calibrate(np.ones(40), np.zeros(100), None).alpha == 0.05
    assert calibrate(np.ones(9), np.zeros(100), None).alpha == 0.1
    assert calibrate(np.ones(7), np.zeros(100), None).alpha == 0.13
    with pytest.raises(DataError, match="1 forget rows are left"):
        calibrate(np.ones(1), np.zeros(100), None)


def test_the_description_carries_n_and_intervals():
    facts = calibrate(np.linspace(0.8, 1, 40), np.linspace(0, 0.2, 40), 0.05).describe()
    assert facts["forget_rows"] == 40
    assert facts["miss_interval"][1] == pytest.approx(0.0876, abs=1e-4)  # Wilson, 0 of 40
