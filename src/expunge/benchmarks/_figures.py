"""Figures from rows: means, shares and differences with their 95 % intervals, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expunge.metrics import intervals
from expunge.types import Figure, Score

FLOOR = -math.log(1e-12)
FLOOR_SHARE = 0.01
"""An answer without any probability counts as FLOOR nats a token; above this share of them, likelihood figures are not
applicable."""
BROKEN = "the model's log-probabilities are no numbers: it is broken"


def broken(*scores: Score | None) -> bool:
    """Whether some token's log-probability is not finite. What a guard floors is another thing."""
    return any(
        score is not None and not score.floored and not np.isfinite(score.token_logprobs).all()
        for score in scores
    )


def usable(score: Score | None) -> Score | None:
    """The score, or None where it is a guard's floor or broken."""
    return None if score is None or score.floored or broken(score) else score


def loss(score: Score | None) -> float | None:
    """Mean NLL per token with the end token, nats; None where there is no likelihood."""
    found = usable(score)
    return None if found is None else -found.mean_logprob


def values(rows: Sequence[dict[str, Any]], field: str) -> np.ndarray:
    """[n] or [n, m] numbers of a field."""
    return np.array([row[field] for row in rows], dtype=float)


def clusters(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Row indices by subject: rows of one subject are not independent."""
    return intervals.group_rows([row.get("subject", "") for row in rows])


def mean(rows: Sequence[dict[str, Any]], field: str, why: str = "") -> Figure:
    """Mean of a field with the interval over whole subjects; absent with `why` where some rows have None, or there are none."""
    if not rows:
        return Figure(None, why=why or "there are no such rows")
    if any(row[field] is None for row in rows):
        return Figure(None, len(rows), why=why or f"some rows have no {field}")
    return mean_of(values(rows, field), clusters(rows))


def mean_of(numbers: np.ndarray, groups: list[list[int]]) -> Figure:
    """Mean of [n] numbers with the interval over whole groups of rows."""
    spread = intervals.percentiles(intervals.resampled_means(numbers, groups))
    return Figure(float(np.mean(numbers)), len(numbers), *spread)


def share(rows: Sequence[dict[str, Any]], field: str, why: str = "") -> Figure:
    """Share of rows whose field is true (see `share_of`)."""
    if not rows:
        return Figure(None, why=why or "there are no such rows")
    if any(row[field] is None for row in rows):
        return Figure(None, len(rows), why=why or f"some rows have no {field}")
    return share_of(values(rows, field), clusters(rows))


def share_of(hits: np.ndarray, groups: list[list[int]]) -> Figure:
    """A share with the wider of two intervals: Wilson's, which knows that none of n is not never, and that of whole groups."""
    wilson = intervals.wilson(int(hits.sum()), len(hits))
    spread = intervals.percentiles(intervals.resampled_means(hits, groups))
    return Figure(float(hits.mean()), len(hits), min(wilson.low, spread.low), max(wilson.high, spread.high))


def resampled(
    parts: Sequence[tuple[np.ndarray, list[list[int]]]],
    number: Callable[..., float],
    resamples: int = 400,
    seed: int = 0,
) -> Figure:
    """Any number of several independent samples, each [n, ...] with its groups; the interval is from whole groups drawn with replacement."""
    return Figure(
        float(number(*(numbers for numbers, _ in parts))),
        sum(len(numbers) for numbers, _ in parts),
        *intervals.percentiles(draws(parts, number, resamples, seed)),
    )


def draws(
    parts: Sequence[tuple[np.ndarray, list[list[int]]]],
    number: Callable[..., float],
    resamples: int = 400,
    seed: int = 0,
) -> np.ndarray:
    """[resamples] values of a number of several independent samples, each from whole groups drawn with replacement."""
    rng = np.random.default_rng(seed)
    indexed = [[np.asarray(rows) for rows in groups] for _, groups in parts]
    return np.array(
        [
            number(
                *(
                    numbers[np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])]
                    for (numbers, _), rows in zip(parts, indexed, strict=True)
                )
            )
            for _ in range(resamples)
        ]
    )
