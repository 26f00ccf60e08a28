"""Both searches on curves that are known: what they find, what they ask for, and that they keep all they saw."""

import numpy as np
import pytest

from expunge.errors import DataError
from expunge.guards.actions.eco import ECO
from expunge.guards.strength import BOUNDS, pairs, smallest, zeroth_order
from tests.guards.cases import fit_data

SPREAD = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])


def falling(strength):
    """Right answers lead by 3 nats at σ = 0 and by nothing from σ = 6 on."""
    return max(3 - strength / 2, 0.0) + SPREAD


def test_the_smallest_strength_is_where_right_answers_lead_by_two_standard_errors():
    error = SPREAD.std(ddof=1) / 5**0.5
    exact = 2 * (3 - 2 * error)
    strength, curve = smallest(falling, contrast=True)
    assert exact <= strength <= 1.1 * exact
    assert [point["strength"] for point in curve] == sorted(point["strength"] for point in curve)
    assert curve[0] == {
        "strength": 0.0,
        "mean": pytest.approx(3),
        "standard_error": pytest.approx(error),
        "reached": False,
    }
    assert all(point["reached"] == (point["strength"] >= strength) for point in curve)


def test_without_wrong_answers_it_is_near_the_plateau():
    strength, _ = smallest(lambda s: -np.minimum(s, 10.0) + SPREAD, contrast=False)
    assert 9.5 <= strength <= 1.1 * 9.5  # 5 % of the way from -10 up to 0


def test_a_curve_that_never_gets_there_gives_the_upper_bound_and_says_so():
    strength, curve = smallest(lambda s: 3 + SPREAD, contrast=True)
    assert strength == BOUNDS[1]
    assert not any(point["reached"] for point in curve)


def test_zeroth_order_descent_ends_where_belief_is_the_surrogate():
    """The logistic of a lead of 0.405 is 0.6, and the curve has that lead at σ = 5.19; the descent asks for two points a step."""
    asked = []

    def measure(strength):
        asked.append(strength)
        return falling(strength)

    strength, curve = zeroth_order(measure, 0.6)
    assert strength == pytest.approx(5.19, abs=1.0)
    assert len(asked) == len(set(asked)) == len(curve) <= 21
    best = min(curve, key=lambda point: point["distance"])
    assert best["strength"] == strength
    assert sum(point["reached"] for point in curve) == 1


def test_on_a_plateau_the_descent_does_not_move():
    """Zero gradient: the paper's objective on a step function stands still, and the curve shows it."""
    strength, curve = zeroth_order(lambda s: 3 + SPREAD, 0.5)
    assert len(curve) == 3
    assert strength in (0.5, 1.0, 1.5)


def test_the_floor_does_not_bias_the_slope():
    """At σ = 1 - 0.9 the lower point would be below the floor; the divisor is the step that was taken."""
    line = zeroth_order(lambda s: np.full(5, np.log(s / (100 - s))), 0.0)  # belief = σ / 100
    assert line.strength == BOUNDS[0]


def test_rows_that_no_strength_can_be_found_on_are_refused(lm):
    with pytest.raises(DataError, match="set the strength yourself"):
        pairs([])
    with pytest.raises(DataError, match="search=smallest"):
        ECO(search="zeroth_order").fit(lm, fit_data())
