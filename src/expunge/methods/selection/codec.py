"""L-CODEC, rows that the loss depends on (Mehta et al., 2022, arXiv:2204.07655; statistic of Azadkia & Chatterjee, 2019, arXiv:1910.12327).

    T(Y, Z | X) = Σ_i ( min(R_i, R_M(i)) - min(R_i, R_N(i)) ) / Σ_i ( R_i - min(R_i, R_N(i)) )

R_i is the rank of Y_i, N(i) the nearest neighbour of i in X, M(i) that in (X, Z). T is 0 where Z says nothing about Y beside X,
and 1 where Y is a function of both. Forward selection adds the neuron Z with the largest T until none is above 0: what it found
is taken for the Markov blanket of the loss Y, and only these neurons' rows of weights move. "L": noise breaks ties.
Needs: forget rows, once; forwards alone.
Differs from the paper: one set of rows for the whole request, from perturbations of all forget rows, not one a row; neurons are
of linear layers but the head; they are standardised, so that a neuron's scale does not decide who is near.
Differs from the authors' code: swapped-in tokens come from the forget rows, theirs from the whole vocabulary; ranks of equal
values are equal (there by position); layers are told apart by name (there equal ones of two blocks shared one entry).
Fails when: the model is large: a step costs samples² · neurons. It asks what the loss depends on under perturbation, not what
holds the knowledge; no row is chosen where T is above 0 nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.stats import rankdata
from torch import Tensor

from expunge.config import Settings
from expunge.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOISE = 1e-4
"""Of the noise that breaks ties, in standard deviations of a feature."""


class CODEC(Settings):
    needs: ClassVar = frozenset({"forget"})

    samples: int = Field(1000, ge=10)
    """Perturbed inputs. Cost grows with the square of their number."""
    swaps: int = Field(1, ge=1)
    """Tokens replaced in each."""
    most: int = Field(16, ge=1)
    """At most so many rows are chosen."""

    def pick(self, model: PreTrainedModel, feed: Any) -> dict[str, Tensor]:
        """Masks of the chosen rows, and of their biases; `feed.perturbed(samples, swaps)` measures."""
        seen = feed.perturbed(self.samples, self.swaps)
        features = spread(seen.features.numpy(), feed.seed.child("codec").number)
        chosen = blanket(features, seen.losses.numpy(), self.most)
        if not chosen:
            raise DataError(
                "selection 'codec': the loss of the forget rows depends on no single neuron under perturbation.\n"
                "Raise selection.swaps or selection.samples, or give more forget rows."
            )
        masks: dict[str, Tensor] = {}
        weights = dict(model.named_parameters())
        first = 0
        for name, neurons in seen.layers.items():
            rows = [j - first for j in chosen if first <= j < first + neurons]
            first += neurons
            for part in ("weight", "bias") if rows else ():
                if (weight := weights.get(f"{name}.{part}")) is not None:
                    masks[f"{name}.{part}"] = torch.zeros_like(weight, dtype=torch.bool)
                    masks[f"{name}.{part}"][rows] = True
        return masks


def dependence(y: np.ndarray, z: np.ndarray, given: np.ndarray | None = None) -> float:
    """T(Y, Z) of [n] and [n], or T(Y, Z | X) with `given` X [n, features]: 0 for no dependence, 1 for a function."""
    rank = rankdata(y, "max")
    if given is None:
        floor, top = _chance(y), rank.sum()
        base = _distances(np.empty((len(y), 0)))
    else:
        base = _distances(given)
        floor, top = np.minimum(rank, rank[base.argmin(1)]).sum(), rank.sum()
    return float((_agreement(rank, base, z[:, None])[0] - floor) / (top - floor))


def blanket(features: np.ndarray, y: np.ndarray, most: int) -> list[int]:
    """Columns of `features` [n, features] by forward selection: the one with the largest T first, until none is above 0."""
    rank = rankdata(y, "max")
    base, best = _distances(features[:, :0]), _chance(y)
    chosen: list[int] = []
    while len(chosen) < most:
        found = _agreement(rank, base, features)  # T of a column grows with it, whatever was chosen before
        found[chosen] = -np.inf
        column = int(found.argmax())
        if found[column] <= best:
            break
        chosen.append(column)
        best = found[column]
        base += np.subtract.outer(features[:, column], features[:, column]) ** 2
    return chosen


def spread(features: np.ndarray, seed: int) -> np.ndarray:
    """Columns of mean 0 and deviation 1, with noise so small that it only decides between equals; float32."""
    centred = features - features.mean(0)
    scaled = centred / np.maximum(centred.std(0), 1e-12)
    noise = np.random.default_rng(seed).standard_normal(features.shape)
    return (scaled + NOISE * noise).astype(np.float32)


def _agreement(rank: np.ndarray, base: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Σ_i min(R_i, R_M(i)) for each column, M(i) the nearest neighbour by `base` and that column together."""
    found = np.empty(columns.shape[1])
    distance = np.empty_like(base)
    for j, column in enumerate(np.ascontiguousarray(columns.T).astype(base.dtype)):
        np.subtract(column[:, None], column[None, :], out=distance)
        np.square(distance, out=distance)
        distance += base
        found[j] = np.minimum(rank, rank[distance.argmin(1)]).sum()
    return found


def _distances(points: np.ndarray) -> np.ndarray:
    """[n, n] squared, infinite from a point to itself."""
    found = np.zeros((len(points), len(points)), dtype=np.float32)
    for column in points.T:
        found += np.subtract.outer(column, column).astype(np.float32) ** 2
    np.fill_diagonal(found, np.inf)
    return found


def _chance(y: np.ndarray) -> float:
    """What Σ_i min(R_i, R_M(i)) is expected to be when M(i) has nothing to do with Y: Σ L_i² / n."""
    at_least = len(y) + 1 - rankdata(y, "min")
    return float((at_least**2).sum() / len(y))
