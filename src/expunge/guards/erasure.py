"""LEACE: the least change to hidden states after which no linear classifier finds a label in them (Belrose et al., 2023, arXiv:2306.03819).

    r(x) = x - Σ^(1/2) U U^T W ( x - E[x] ),     W = (Σ^(1/2))^+,  Σ = Cov(x, x),  U = left singular vectors of W Cov(x, z)

The mean is kept, nothing happens where Cov(x, z) = 0, and a second time changes nothing. It says nothing about classifiers that are
not linear. All in float64: covariances in half precision are noise. The authors' package besides shrinks the covariance, cuts
correlations below 0.01 and mixes in an orthogonal projection where the erasure would raise the variance; none of that is here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np

TOLERANCE = 1e-8
"""Correlations with the label below this are rounding, not signal."""


@dataclass(frozen=True)
class Moments:
    """Sums over rows of states x and labels z (0 and 1, one column a class). They add up, and what was added can be taken
    out again exactly in kind: a request that is withdrawn leaves no trace but rounding.
    """

    n: float
    x: np.ndarray  # [hidden]
    z: np.ndarray  # [classes]
    xx: np.ndarray  # [hidden, hidden]
    xz: np.ndarray  # [hidden, classes]

    @classmethod
    def of(cls, states: np.ndarray, labels: np.ndarray) -> Self:
        """From rows: `states` [n, hidden], `labels` [n] or [n, classes]."""
        x = np.asarray(states, dtype=np.float64)
        z = np.asarray(labels, dtype=np.float64).reshape(len(x), -1)
        return cls(len(x), x.sum(0), z.sum(0), x.T @ x, x.T @ z)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def eraser(self) -> Eraser:
        """The closed form. Directions in which states do not vary are left alone."""
        mean, label = self.x / self.n, self.z / self.n
        covariance = self.xx / self.n - np.outer(mean, mean)
        cross = self.xz / self.n - np.outer(mean, label)
        sizes, axes = np.linalg.eigh(covariance)
        varies = sizes > sizes[-1] * len(sizes) * np.finfo(np.float64).eps
        axes, roots = axes[:, varies], np.sqrt(sizes[varies])
        found, strengths, _ = np.linalg.svd((axes / roots).T @ cross, full_matrices=False)
        found = found[:, strengths > TOLERANCE]  # [varying, rank], whitened
        return Eraser(mean, (axes * roots) @ found, (axes / roots) @ found)


class Eraser(NamedTuple):
    """r(x) = x - ((x - mean) · read) write^T, of numpy arrays or torch tensors alike."""

    mean: Any  # [hidden]
    write: Any  # [hidden, rank]
    read: Any  # [hidden, rank]

    def __call__(self, states: Any) -> Any:
        """[..., hidden] to [..., hidden]"""
        return states - ((states - self.mean) @ self.read) @ self.write.T
