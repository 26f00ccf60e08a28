"""SCAV's closed form: golden values, the target met exactly, nothing shorter does it."""

import numpy as np
import pytest

from expunge.attacks._concepts import pushed

W, B, P0 = np.array([3.0, 4.0]), -1.0, 0.001


def probability(states):
    return 1 / (1 + np.exp(-(states @ W + B)))


def test_the_golden_vector():
    """w = (3, 4), b = -1, e = (2, 1): ε = -3.181350956."""
    found = pushed(np.array([[2.0, 1.0]]), W, B, P0)
    assert found[0] == pytest.approx([0.091189, -1.545081], abs=1e-6)
    assert np.linalg.norm(found[0] - [2.0, 1.0]) == pytest.approx(3.181350956)
    assert probability(found)[0] == pytest.approx(0.001, abs=1e-9)


def test_each_row_is_judged_by_itself_and_what_is_low_already_stays():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(50, 2)) * 3
    found = pushed(states, W, B, P0)
    low = probability(states) <= P0
    assert 0 < low.sum() < 50
    assert np.array_equal(found[low], states[low])
    assert probability(found[~low]) == pytest.approx(P0, abs=1e-6)


def test_no_shorter_change_reaches_the_target():
    e = np.array([2.0, 1.0])
    shortest = np.linalg.norm(pushed(e[None], W, B, P0)[0] - e)
    angles = np.linspace(0, 2 * np.pi, 721)
    around = e + 0.999 * shortest * np.stack([np.cos(angles), np.sin(angles)], 1)
    assert probability(around).min() > P0
