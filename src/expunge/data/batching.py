"""Rows into batches: little padding, attention from lengths, and a private generator for every random choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from expunge.data.tokenize import Encoded
from expunge.types import Seed


class Batch(NamedTuple):
    ids: Tensor  # [batch, tokens] int64
    attention: Tensor  # [batch, tokens] int64, 1 where a row has a token: from lengths, never from ids
    answer: Tensor  # [batch, tokens] bool, the answer tokens


def collate(
    rows: Sequence[Encoded],
    pad_id: int,
    *,
    side: Literal["left", "right"] = "right",
    device: torch.device | str = "cpu",
) -> Batch:
    """Pad rows to the longest. Whatever `pad_id` is, padding is known by position alone."""
    width = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    attention = np.zeros((len(rows), width), dtype=np.int64)
    answer = np.zeros((len(rows), width), dtype=bool)
    for i, row in enumerate(rows):
        shift = width - len(row.ids) if side == "left" else 0
        ids[i, shift : shift + len(row.ids)] = row.ids
        attention[i, shift : shift + len(row.ids)] = 1
        answer[i, shift + row.start : shift + len(row.ids)] = True
    return Batch(*(torch.from_numpy(array).to(device) for array in (ids, attention, answer)))


def by_length(lengths: Sequence[int], batch_tokens: int, max_padding: float = 0.05) -> list[list[int]]:
    """Cut row indices, sorted by length, into batches of at most `batch_tokens` padded tokens and `max_padding` padding."""
    batches: list[list[int]] = []
    real = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        padded = lengths[i] * (len(batches[-1]) + 1) if batches else 0
        if not batches or padded > batch_tokens or real + lengths[i] < (1 - max_padding) * padded:
            batches.append([])
            real = 0
        batches[-1].append(i)
        real += lengths[i]
    return batches


class Step(NamedTuple):
    """Row indices of one optimiser step; `retain` pairs with `forget` row by row where both are used."""

    forget: list[int]
    retain: list[int]
    epoch: int


def plan_steps(
    *,
    forget_lengths: Sequence[int] = (),
    retain_lengths: Sequence[int] = (),
    replay_lengths: Sequence[int] = (),
    replay: float = 0.0,
    batch_size: int,
    epochs: int,
    max_steps: int | None = None,
    pairing: Literal["fixed", "fresh"] = "fresh",
    seed: Seed,
) -> list[Step]:
    """The whole run, decided before it starts, so that it can be resumed and its reference rows are known.

    With a forget set, an epoch is one pass over it, and every forget row brings one retain row (if there is a retain set):
    always the same one (`fixed`, as TOFU's data class does) or a new draw each epoch (`fresh`). Without a forget set, an epoch
    is one pass over the retain set and a fresh draw of `replay` times the replay set, whose rows are numbered after the
    retain rows. Rows of like length share a step.
    """
    steps: list[Step] = []
    epoch = 0
    while (len(steps) < max_steps) if max_steps else (epoch < epochs):
        rng = np.random.default_rng(seed.child("order", epoch).number)
        if forget_lengths:
            key = ("pair",) if pairing == "fixed" else ("pair", epoch)
            draw = np.random.default_rng(seed.child(*key).number)
            partners = (
                draw.integers(len(retain_lengths), size=len(forget_lengths)).tolist()
                if retain_lengths
                else []
            )
            for rows in _epoch_order(range(len(forget_lengths)), forget_lengths, batch_size, rng):
                steps.append(Step(rows, [partners[i] for i in rows] if partners else [], epoch))
        else:
            lengths = [*retain_lengths, *replay_lengths]
            drawn = (
                rng.choice(
                    len(replay_lengths), size=round(replay * len(replay_lengths)), replace=False
                ).tolist()
                if replay_lengths
                else []
            )
            order = [*range(len(retain_lengths)), *(len(retain_lengths) + i for i in drawn)]
            steps += [Step([], rows, epoch) for rows in _epoch_order(order, lengths, batch_size, rng)]
        epoch += 1
    return steps[:max_steps] if max_steps else steps


def _epoch_order(
    rows: Sequence[int], lengths: Sequence[int], batch_size: int, rng: np.random.Generator, group: int = 16
) -> list[list[int]]:
    """`rows` in a random order in which each batch holds rows of like length: sorted within random groups of `group` batches."""
    order = [rows[i] for i in rng.permutation(len(rows))]
    batches = []
    for first in range(0, len(order), batch_size * group):
        near = sorted(order[first : first + batch_size * group], key=lambda i: lengths[i])
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
