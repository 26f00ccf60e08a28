"""Intervals: Wilson for shares, and the bootstrap over clusters for everything else (Wilson, 1927; Efron, 1979).

Rows about one subject are not independent, so whole subjects are resampled. 95 % unless said otherwise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

VERSION = 1
Z = 1.959963984540054


class Interval(NamedTuple):
    low: float
    high: float


def wilson(hits: int, n: int) -> Interval:
    """For `hits` of `n`."""
    centre = (hits + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * (hits * (n - hits) / n + Z * Z / 4) ** 0.5
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def resampled_means(
    values: np.ndarray, clusters: Sequence[Sequence[int]], resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """[resamples] means of [n] values, whole clusters drawn with replacement. The same seed draws the same clusters, so means
    of several quantities of the same rows can be combined.
    """
    rng = np.random.default_rng(seed)
    values = np.asarray(values, dtype=float)
    sums = np.array([values[list(rows)].sum() for rows in clusters])
    counts = np.array([len(rows) for rows in clusters])
    drawn = rng.integers(len(clusters), size=(resamples, len(clusters)))
    return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)


def resampled_distances(
    a: np.ndarray, b: np.ndarray, clusters: Sequence[Sequence[int]], resamples: int = 400, seed: int = 0
) -> np.ndarray:
    """[resamples] Kolmogorov-Smirnov distances of two samples over the same rows, whole clusters drawn with replacement."""
    rng = np.random.default_rng(seed)
    groups = [np.asarray(rows) for rows in clusters]
    found = np.empty(resamples)
    for i in range(resamples):
        rows = np.concatenate([groups[k] for k in rng.integers(len(groups), size=len(groups))])
        x, y = np.sort(a[rows]), np.sort(b[rows])
        both = np.concatenate([x, y])
        found[i] = np.abs(np.searchsorted(x, both, "right") - np.searchsorted(y, both, "right")).max() / len(
            rows
        )
    return found


def percentiles(resampled: np.ndarray) -> Interval:
    """The middle 95 % of resampled values."""
    return Interval(*(float(q) for q in np.quantile(resampled, [0.025, 0.975])))


def group_rows(labels: Sequence[str]) -> list[list[int]]:
    """Row indices by label, in order of first appearance; a row with an empty label is a cluster of its own."""
    groups: dict[object, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label or row, []).append(row)
    return list(groups.values())
