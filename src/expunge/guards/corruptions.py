"""What becomes of an embedding that is to be made unreadable: every corruption of ECO's code, and two that leave no token clean.

    e~[D] = f(e)[D] on the chosen dimensions D, e~ = e elsewhere

| the authors' function | kind | which |
|---|---|---|
| rand_noise_first_n, rand_noise_top_k, rand_noise_rand_n | noise | first, top, random |
| set_rand_noise_first_n | set_noise | first |
| zero_out_first_n, zero_out_top_k | zero | first, top |
| flip_sign_first_n, flip_sign_top_k | flip | first, top |
| add_value_first_n, sub_value_first_n | add, subtract | first |
| sub_value_top_k, add_value_least_k | subtract, add | largest, smallest |
| reverse_order, shuffle | reverse, shuffle | (the order of the corrupted tokens among themselves) |

`rademacher` adds ±σ, `fixed` one and the same vector of ±σ: no dimension is ever left nearly clean, as Gaussian noise leaves 8 %
of them. `swap`, a control, lets a random other token enter. σ is in units of the embedding's root mean square. Noise belongs to a token id and a seed, so that the same token
always becomes the same vector. The authors' set_noise, reverse and shuffle also change tokens and rows that nobody flagged;
here none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from expunge.types import Seed

Kind = Literal[
    "rademacher",
    "fixed",
    "noise",
    "set_noise",
    "zero",
    "flip",
    "add",
    "subtract",
    "reverse",
    "shuffle",
    "swap",
]
Which = Literal["first", "top", "random", "largest", "smallest"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REPLACE: tuple[Kind, ...] = ("reverse", "shuffle", "swap")
"""Kinds that let another token's clean embedding enter."""
STRENGTHLESS: tuple[Kind, ...] = ("zero", "flip", *REPLACE)


class Noise:
    """[hidden] draws of one seed, one for each token id; made on the CPU, so that every device gets the same."""

    def __init__(self, seed: Seed, *, signs: bool, shared: bool = False):
        """`signs`: ±1 instead of Gaussian. `shared`: the same vector for every token."""
        self.seed, self.signs, self.shared = seed, signs, shared
        self._drawn: dict[int, Tensor] = {}

    def of(self, ids: Sequence[int], hidden: int) -> Tensor:
        """[n, hidden] float32."""
        return torch.stack([self._one(-1 if self.shared else i, hidden) for i in ids])

    def _one(self, token: int, hidden: int) -> Tensor:
        if token not in self._drawn:
            generator = torch.Generator().manual_seed(self.seed.child("token", token).number)
            drawn = torch.randn(hidden, generator=generator)
            self._drawn[token] = drawn.sign() if self.signs else drawn
        return self._drawn[token]


def corrupt(
    embeddings: Tensor, ids: Sequence[int], kind: Kind, which: Which, count: int, sigma: float, noise: Noise
) -> Tensor:
    """[n, hidden] embeddings of the tokens `ids`, of which each `count` dimensions change; the input is left alone.

    `sigma`: absolute. What is replaced is so before (`replaced`), and nothing is left to do here.
    """
    if kind in REPLACE:
        return embeddings.clone()
    if kind == "zero":
        changed = torch.zeros_like(embeddings)
    elif kind == "flip":
        changed = -embeddings
    elif kind in ("add", "subtract"):
        changed = embeddings + (sigma if kind == "add" else -sigma)
    else:
        drawn = sigma * noise.of(ids, embeddings.shape[-1]).to(embeddings)
        changed = drawn if kind == "set_noise" else embeddings + drawn
    if count >= embeddings.shape[-1]:
        return changed
    return torch.where(_dimensions(embeddings, which, count, noise.seed), changed, embeddings)


def _dimensions(embeddings: Tensor, which: Which, count: int, seed: Seed) -> Tensor:
    """[n, hidden] bool: the `count` dimensions that change. `random` is one set for all tokens."""
    chosen = torch.zeros_like(embeddings, dtype=torch.bool)
    if which == "first":
        chosen[:, :count] = True
    elif which == "random":
        generator = torch.Generator().manual_seed(seed.child("dimensions").number)
        chosen[:, torch.randperm(embeddings.shape[-1], generator=generator)[:count]] = True
    else:
        size = {"top": embeddings.abs(), "largest": embeddings, "smallest": -embeddings}[which]
        chosen.scatter_(1, size.topk(count, dim=1).indices, True)
    return chosen


def replaced(ids: Sequence[int], mask: np.ndarray, kind: Kind, seed: Seed, vocabulary: int) -> list[int]:
    """The token whose embedding enters at each prompt position: for the masked ones another one, as `kind` has it."""
    found = list(ids)
    places = mask.nonzero()[0]
    if kind == "swap":
        for place in places:
            found[place] = swapped(found[place], seed, vocabulary)
    elif kind in REPLACE:
        rng = np.random.default_rng(seed.child("order", *ids).number)
        order = places[::-1] if kind == "reverse" else rng.permutation(places)
        for place, source in zip(places, order, strict=True):
            found[place] = ids[source]
    return found


def swapped(token: int, seed: Seed, vocabulary: int) -> int:
    """The other token that always stands in for this one."""
    shift = int(np.random.default_rng(seed.child("swap", token).number).integers(1, vocabulary))
    return (token + shift) % vocabulary
