"""How strong ECO's corruption has to be: the smallest σ that will do, or the paper's zeroth-order descent. Both keep their whole curve.

    smallest:      σ* = min { σ : s(σ) <= level },   s = mean log p(right) - mean log p(wrong) per token
    zeroth_order:  d(σ) = | m(σ) - v |;   σ <- max( σ - η [ d(σ + μ) - d(σ - μ) ] / (step), σ_min )

All draws of the noise are the same for every σ (common random numbers), and every point averages several of them. Neither looks
at a retrained model. σ is in units of the embedding's root mean square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expunge.errors import DataError

if TYPE_CHECKING:
    from expunge.data.dataset import Record

BOUNDS = (0.25, 64.0)
"""Of σ; beyond the upper one nothing of the token is left to hide."""
NOISE_SEEDS = 8
"""Draws of the noise that every σ is averaged over."""
START, DIFFERENCE, RATE, STEPS = 1.0, 0.5, 16.0, 10
"""Of the descent: σ_0, μ and η in units of the embedding's root mean square, and most steps. The authors' script starts at 0.1
with μ = 0.0999 and η = 100 on accuracies of another model, absolute; their first step is one jump to about 40."""

Point = dict[str, float | bool]
Measure = Callable[[float], np.ndarray]
"""[rows] log p(right) - log p(wrong), or log p(right), per token, at one σ."""


class Found(NamedTuple):
    strength: float
    curve: list[Point]


def smallest(measure: Measure, *, contrast: bool) -> Found:
    """The smallest σ that reaches the level, to within a tenth.

    With wrong answers beside the rows (`contrast`) the level is twice the statistic's standard error: right answers no likelier
    than wrong ones, as far as so many rows can tell. Without them the statistic is mean log p(answer) per token, and the level
    the plateau at the upper bound plus 5 % of the way down to it.
    """
    low, high = BOUNDS
    start = measure(0.0)
    seen = {0.0: start, high: measure(high)}
    plateau = float(seen[high].mean() + 0.05 * (start.mean() - seen[high].mean()))

    def reached(strength: float) -> bool:
        if strength not in seen:
            seen[strength] = measure(strength)
        rows = seen[strength]
        return float(rows.mean()) <= (2 * _standard_error(rows) if contrast else plateau)

    below, strength = low, low
    while not reached(strength) and strength < high:
        below, strength = strength, min(high, 2 * strength)
    while strength > 1.1 * below:  # the σ sought lies in (below, strength]
        middle = (below * strength) ** 0.5
        below, strength = (below, middle) if reached(middle) else (middle, strength)
    return Found(strength, [{**_point(s, seen[s]), "reached": bool(s) and reached(s)} for s in sorted(seen)])


def zeroth_order(measure: Measure, surrogate: float) -> Found:
    """Descent on the distance between the share of belief in the right answer and what a model without the knowledge would show.

    `measure` gives log p(right) - log p(wrong); m(σ) is the mean of its logistic function, and `surrogate` the value v for it
    (one half: right and wrong alike). The divisor is the step that was really taken, also where the floor clips it. σ is the
    visited one with the least distance.
    """
    low, high = BOUNDS
    seen: dict[float, np.ndarray] = {}

    def distance(strength: float) -> float:
        if strength not in seen:
            seen[strength] = measure(strength)
        return abs(float((1 / (1 + np.exp(-seen[strength]))).mean()) - surrogate)

    strength = START
    for _ in range(STEPS):
        above, beneath = min(strength + DIFFERENCE, high), max(strength - DIFFERENCE, low)
        slope = (distance(above) - distance(beneath)) / (above - beneath)
        following = min(max(strength - RATE * slope, low), high)
        if math.isclose(following, strength, rel_tol=1e-3):
            break
        strength = following
    distance(strength)
    best = min(seen, key=distance)
    return Found(
        best, [{**_point(s, seen[s]), "distance": distance(s), "reached": s == best} for s in sorted(seen)]
    )


def pairs(rows: Sequence[Record]) -> list[Record]:
    """The rows that σ can be found on. Raises DataError where there is none."""
    found = [record for record in rows if record.shape == "pair"]
    if not found:
        raise DataError(
            "eco finds its strength on question-answer pairs of the forget set, and there are none.\n"
            "Add pairs, or set the strength yourself: --set action.strength=4"
        )
    return found


def _standard_error(rows: np.ndarray) -> float:
    return float(rows.std(ddof=1) / len(rows) ** 0.5) if len(rows) > 1 else 0.0


def _point(strength: float, rows: np.ndarray) -> dict[str, Any]:
    return {"strength": strength, "mean": float(rows.mean()), "standard_error": _standard_error(rows)}
