"""Tuned lens: the logit lens after a map turned each block's states into those of the last one (Belrose et al., 2023, arXiv:2303.08112).

    h'_l = h_l + σ_l ( A_l h_l / σ_l + b_l ),       A_l, b_l = 0 at the start,       σ_l: root mean square of the block's states
    A_l, b_l: `steps` of Adam on mean KL( p_last || p_l ),     p_l = softmax( head( norm( h'_l ) ) ),     tokens of rows that stay

Early blocks keep what they know in directions of their own, which the plain lens does not see. The maps learn from rows that nobody
removed, so they cannot bring the forgotten facts along. Read as the logit lens is.
Needs: the weights, and rows that stay.
Differs from the paper: trained on question-answer rows that stay, not on general text, and for `steps` steps.
Differs from the authors' code: not used; states are scaled to one size, so one learning rate fits all models.
Fails when: the rows that stay are too few for a map of hidden × hidden numbers: the KL on tokens held out, in the notes, then rises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.attacks._attack import Kind, Opened, OpeningAttack, Reading, Suite
from expunge.attacks._lens import AT_ONCE, block_outputs, encoded, read_through, said, to_logits
from expunge.data.batching import by_length, collate
from expunge.models.hidden import find_blocks
from expunge.types import Example, Prompt, Seed

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

HELD_OUT = 8
"""One row in so many is not trained on."""


class TunedLens(OpeningAttack):
    id: ClassVar[str] = "W5b"
    suite: ClassVar[Suite] = "standard"
    kind: ClassVar[Kind] = "inside"
    version: ClassVar[int] = 2

    steps: int = Field(100, ge=1)
    """Of Adam, for each block."""
    batch_size: int = Field(128, ge=1)
    """Tokens in a step."""
    learning_rate: float = Field(3e-3, gt=0)
    """Of the maps of states that were scaled to one size."""
    tokens: int = Field(4096, ge=1)
    """Most tokens that are trained on."""
    prior: bool = True
    """Read a second time, less what a prompt about nobody in particular says."""

    def read(self, opened: Opened) -> Reading:
        lm = opened.lm
        rows = [encoded(lm, Example(Prompt.ask(case.question), case.probe.answer)) for case in opened.retain]
        kept = [row for row in rows if row is not None]
        if len(kept) < 2:
            return Reading(why="there are no rows that stay to train the maps on")
        lm.model.requires_grad_(False)
        trained, held = (
            _all_states(lm, [row for i, row in enumerate(kept) if (i % HELD_OUT == 0) is out], self.tokens)
            for out in (False, True)
        )
        maps: list[tuple[Tensor, Tensor, float]] = []
        notes: dict[str, float | None] = {}
        for block in range(len(trained) - 1):
            maps.append(self._fit(lm, trained[block], trained[-1], opened.seed.child("block", block)))
            notes[f"KL held out, block {block}, logit lens"] = _kl(lm, held[block], held[-1])
            notes[f"KL held out, block {block}, tuned lens"] = _kl(lm, _turn(held[block], maps[-1]), held[-1])

        def lens(lm: TransformerLM, states: Tensor, block: int) -> Tensor:
            return said(lm, _turn(states, maps[block]) if block < len(maps) else states)

        reading = read_through(lm, opened.cases, lens, prior=self.prior)
        return reading._replace(notes={**reading.notes, **notes})

    def _fit(
        self, lm: TransformerLM, states: Tensor, last: Tensor, seed: Seed
    ) -> tuple[Tensor, Tensor, float]:
        """One block's map, and the size of its states."""
        size = max(float(states.square().mean().sqrt()), 1e-8)
        matrix = states.new_zeros(states.shape[1], states.shape[1], requires_grad=True)
        shift = states.new_zeros(states.shape[1], requires_grad=True)
        adam = torch.optim.Adam([matrix, shift], lr=self.learning_rate)
        chance = torch.Generator().manual_seed(seed.number)
        for _ in range(self.steps):
            drawn = torch.randint(len(states), (min(self.batch_size, len(states)),), generator=chance)
            part = drawn.to(states.device)
            loss = _divergence(lm, _turn(states[part], (matrix, shift, size)), last[part]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return matrix.detach(), shift.detach(), size


def _turn(states: Tensor, turned: tuple[Tensor, Tensor, float]) -> Tensor:
    matrix, shift, size = turned
    return states + size * (states / size @ matrix.T + shift)


def _divergence(lm: TransformerLM, states: Tensor, last: Tensor) -> Tensor:
    """[n] KL of what states say from what the last block's say."""
    with torch.no_grad():
        wanted = to_logits(lm.model, last).log_softmax(-1)
    return (wanted.exp() * (wanted - to_logits(lm.model, states).log_softmax(-1))).sum(-1)


def _kl(lm: TransformerLM, states: Tensor, last: Tensor) -> float:
    pairs = zip(states.split(AT_ONCE), last.split(AT_ONCE), strict=True)
    with torch.no_grad():
        return float(torch.cat([_divergence(lm, *pair) for pair in pairs]).mean())


def _all_states(lm: TransformerLM, rows: list, tokens: int) -> list[Tensor]:
    """By block, [tokens, hidden] float32 of the rows' tokens, at most `tokens`."""
    found: list[list[Tensor]] = []
    owner: Any = find_blocks(lm.model, 0).owner
    while sum(len(row.ids) for row in rows) > tokens and len(rows) > 1:
        rows = rows[:-1]
    for near in by_length([len(row.ids) for row in rows], lm.batch_tokens):
        batch = collate([rows[i] for i in near], lm.pad_id, device=lm.model.device)
        with torch.no_grad(), block_outputs(lm.model) as seen:
            owner(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)
        found.append([out[batch.attention.bool()].float() for out in seen])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]
