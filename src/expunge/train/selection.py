"""Which weights move, one by one, by a score: in O(N) time and N/8 bytes beside the gradients (and scratch for one PIECE).

Weights that were not selected stay bit for bit as they are: their gradients are zero before the gradient rule sees them, Adam
makes nothing of zeros, and weight decay is applied to the selected weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from expunge.data.tokenize import Encoded
from expunge.train.feed import Feed, Rows
from expunge.train.statistics import mean_gradients
from expunge.types import ParameterView, Seed

Scores = Callable[[], Iterable[tuple[str, Tensor]]]
"""Scores by tensor, >= 0, in one piece or several (all but the last of a multiple of 8); called once a pass, always in the same order."""
PIECE = 1 << 20
"""Weights that are scored at a time."""


def select(selection: Any, weights: Mapping[str, Tensor], feed: Feed) -> dict[str, Tensor]:
    """Packed masks by tensor of the `share` of all `weights` with the largest score; {} when all of them move."""
    if selection.share == 1:
        return {}
    stream = feed.forget_streams[0]
    rows = {
        "forget": feed.rows.forget if stream == "forget" else [others[0] for others in feed.rows.alternates],
        "retain": retain_sample(feed.rows, feed.seed),
    }
    size = feed.micro_batch
    gradients = {
        name: mean_gradients(feed.model, weights, rows[name], feed.pad_id, size)
        for name in ("forget", "retain")
        if name in selection.needs
    }
    batches = math.ceil(len(feed.rows.forget) / feed.batch_size)

    def scores() -> Iterable[tuple[str, Tensor]]:
        for name, weight in weights.items():
            whole = {"weight": weight.detach(), **{which: found[name] for which, found in gradients.items()}}
            for start in range(0, weight.numel(), PIECE):
                own = {what: tensor.reshape(-1)[start : start + PIECE] for what, tensor in whole.items()}
                seed = feed.seed.child("selection", name, start).number
                with torch.no_grad():
                    yield name, selection.score(ParameterView(**own, batches=batches, seed=seed))

    return top_share(scores, selection.share)


def retain_sample(rows: Rows, seed: Seed) -> list[Encoded]:
    """As many retain rows as there are forget rows, drawn by the run's seed; all of them where there are fewer."""
    generator = torch.Generator().manual_seed(seed.child("selection").number)
    drawn = torch.randperm(len(rows.retain), generator=generator)[: len(rows.forget)]
    return [rows.retain[i] for i in drawn.tolist()]


def top_share(scores: Scores, share: float) -> dict[str, Tensor]:
    """Packed masks of exactly floor(share * N) of all N scores: the largest, and the first ones among equals.

    The bits of a float >= 0 are in the order of its value, so two histograms of them (the upper, then the lower half of the
    bits) give the exact threshold without sorting anything.
    """
    count = sum(score.numel() for _, score in scores())
    kept = int(share * count)
    upper = torch.zeros(1 << 16, dtype=torch.int64)
    for _, score in scores():
        upper += torch.bincount((_bits(score) >> 15).cpu(), minlength=1 << 16)
    edge, left = _edge(upper, kept)
    lower = torch.zeros(1 << 15, dtype=torch.int64)
    for _, score in scores():
        bits = _bits(score)
        lower += torch.bincount((bits[bits >> 15 == edge] & 0x7FFF).cpu(), minlength=1 << 15)
    low, left = _edge(lower, left)
    threshold = edge << 15 | low
    masks: dict[str, list[Tensor]] = {}
    for name, score in scores():
        bits = _bits(score)
        mask = bits > threshold
        equal = (bits == threshold).nonzero()[:left, 0]
        mask[equal] = True
        left -= len(equal)
        masks.setdefault(name, []).append(pack(mask))
    return {name: torch.cat(pieces) for name, pieces in masks.items()}


def _bits(score: Tensor) -> Tensor:
    """[n] int32, in the order of the scores."""
    return score.detach().float().abs().reshape(-1).view(torch.int32)


def _edge(histogram: Tensor, kept: int) -> tuple[int, int]:
    """The bin in which the `kept`-th largest entry lies, and how many of that bin are kept."""
    above = histogram.flip(0).cumsum(0)
    place = int((above < kept).sum()) if kept else 0
    edge = len(histogram) - 1 - place
    return edge, kept - int(above[place] - histogram[edge])


def pack(mask: Tensor) -> Tensor:
    """[n] bool to [ceil(n / 8)] uint8."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -len(mask) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """The mask back in the shape of its tensor, bool."""
    bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.view(-1)[: shape.numel()].view(shape).bool()
