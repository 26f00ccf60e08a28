"""How far states lie out along the directions in which a set of states differs most: HaloScope's score (Du et al., 2024, arXiv:2409.17504).

    f = h - mean(h);   F = U Σ V^T;     score(x) = 1/k · Σ_{j<=k}  ( σ_j / sqrt(N) ) · <f(x), v_j>²

h: [N, hidden] states; v_j, σ_j: the largest singular vectors and values of the centred ones. Dividing by sqrt(N) keeps the score from
growing with the number of rows. Neither a rotation of all states nor the sign of a singular vector changes it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Subspace(NamedTuple):
    mean: np.ndarray  # [hidden]
    directions: np.ndarray  # [k, hidden] orthonormal
    sizes: np.ndarray  # [k] singular values over the square root of the number of rows


def find_subspace(features: np.ndarray, k: int) -> Subspace:
    """Of `features` [n, hidden]; fewer than `k` directions where there are no more."""
    mean = features.mean(0)
    _, sizes, directions = np.linalg.svd(features - mean, full_matrices=False)
    return Subspace(mean, directions[:k], sizes[:k] / len(features) ** 0.5)


def subspace_score(features: np.ndarray, subspace: Subspace) -> np.ndarray:
    """[n] the mean over directions of size times squared projection."""
    return (((features - subspace.mean) @ subspace.directions.T) ** 2 * subspace.sizes).mean(1)
