"""Attack success, worked by hand."""

import numpy as np
import pytest

from expunge.metrics.attack_success import answers_hit, least_n, normalised
from expunge.metrics.intervals import wilson


def test_one_trial_is_enough_unless_they_have_to_agree():
    trials = [(False, False, True), (True, False, True), (False, False, True), (True, False, True)]
    assert answers_hit(trials).tolist() == [True, False, True]
    assert answers_hit(trials, agree=0.75).tolist() == [False, False, True]
    assert answers_hit(trials, agree=0.5).tolist() == [True, False, True]


def test_to_a_model_that_draws_answers_success_and_guess_are_the_same():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        drawn = rng.integers(6, size=3)
        hits.append(answers_hit([[draw == answer for answer in range(6)] for draw in drawn]))
    hits = np.array(hits)
    expected = 1 - (5 / 6) ** 3
    assert hits[:, 0].mean() == pytest.approx(expected, abs=0.04)
    assert hits[:, 1:].mean() == pytest.approx(expected, abs=0.02)


def test_normalised_is_what_is_left_of_what_the_original_gave_away():
    assert normalised(0.6, gold=0.1, original=1.1) == pytest.approx(0.5)
    assert normalised(0.02, gold=0.0, original=0.04) is None


def test_three_hundred_cases_without_a_hit_show_a_rate_of_at_most_one_and_a_third_per_cent():
    assert least_n(0.012644) == 300
    assert wilson(0, least_n(0.05)).high <= 0.05 < wilson(0, least_n(0.05) - 1).high
    assert wilson(0, 40).high == pytest.approx(0.0876, abs=1e-4)
