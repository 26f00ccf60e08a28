"""Thresholds with a promise: split conformal calibration, one class at a time (Vovk et al., 2005; Mondrian form).

With n_f forget scores, flagging at or above the k-th smallest, k = floor(α (n_f + 1)), misses a new exchangeable forget prompt
with probability at most α; flagging above the ceil((1 - α)(n_r + 1))-th smallest of n_r retain scores raises a false alarm with
probability at most α. The promise is for prompts like the calibration ones; an attacker's are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from expunge.errors import DataError
from expunge.metrics.intervals import wilson

USUAL = 0.05
"""The rate that is promised where the rows can bear it."""


@dataclass(frozen=True)
class Calibration:
    threshold: float
    """A prompt is in scope when its score is at or above it, or is no number."""
    alpha: float | None
    """The promised rate; None where the threshold is fixed and nothing is promised."""
    forget_rows: int
    retain_rows: int
    both_hold: bool | None
    """Whether one threshold keeps both promises, where there are any. If not, the miss rate is kept and false alarms are more frequent."""
    missed: int
    false_alarms: int
    """Counts on the calibration rows themselves."""

    def flags(self, scores: np.ndarray) -> list[bool]:
        """In scope or not; a score that is not a number is in scope: a guard that cannot decide fails closed."""
        return [not score < self.threshold for score in scores.tolist()]

    def counted(self, forget_scores: Sequence[float], retain_scores: Sequence[float]) -> Calibration:
        """The same threshold, with the counts on these rows."""
        forget, retain = np.array(forget_scores), np.array(retain_scores)
        return replace(
            self,
            forget_rows=len(forget),
            retain_rows=len(retain),
            missed=int((forget < self.threshold).sum()),
            false_alarms=int((~(retain < self.threshold)).sum()),
        )

    def describe(self) -> dict[str, Any]:
        """Counts with their Wilson intervals, which are absent where there are no rows."""
        intervals = {
            f"{what}_interval": list(wilson(count, rows)) if rows else None
            for what, count, rows in (
                ("miss", self.missed, self.forget_rows),
                ("false_alarm", self.false_alarms, self.retain_rows),
            )
        }
        return {**asdict(self), **intervals}

    @classmethod
    def parse(cls, described: dict[str, Any]) -> Calibration:
        """From what `describe` gave."""
        return cls(**{field.name: described[field.name] for field in fields(cls)})


def fixed_threshold(threshold: float) -> Calibration:
    """A threshold that no rows have a say in, and that promises nothing."""
    return Calibration(threshold, None, 0, 0, None, 0, 0)


def calibrate(
    forget_scores: Sequence[float], retain_scores: Sequence[float], alpha: float | None
) -> Calibration:
    """The threshold for scores where higher means in scope. `alpha` None: the usual rate, or the least that the rows bear.

    Raises DataError when there are too few rows for a rate that was asked for, or for any at all.
    """
    forget, retain = np.sort(forget_scores), np.sort(retain_scores)
    if alpha is None:
        alpha = max(USUAL, least_rate(min(len(forget), len(retain))))
    needed = math.ceil(1 / alpha) - 1
    for what, scores in (("forget", forget), ("retain", retain)):
        if len(scores) < needed:
            raise DataError(
                f"{len(scores)} {what} rows are left to calibrate the detector; a rate of {alpha:g} needs at least {needed}.\n"
                f"Give more {what} rows, or promise less: --set detector.alpha={least_rate(len(scores)):g}"
            )
    lowest = forget[math.floor(alpha * (len(forget) + 1)) - 1]  # flag at or above
    highest = retain[math.ceil((1 - alpha) * (len(retain) + 1)) - 1]  # flag above
    both = bool(lowest > highest)
    threshold = float((lowest + highest) / 2) if both else float(lowest)
    found = Calibration(threshold, alpha, 0, 0, both, 0, 0)
    return found.counted(forget_scores, retain_scores)


def least_rate(rows: int) -> float:
    """The least rate that so many calibration rows can promise, rounded up to a hundredth; below one half."""
    return min(math.ceil(100 / (rows + 1)) / 100, 0.49)
