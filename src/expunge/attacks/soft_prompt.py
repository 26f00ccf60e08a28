"""Soft prompt: the embedding attack with one set of vectors for all questions (Schwinn et al., 2024, arXiv:2402.09063).

    [ question ][ e: 5 vectors, at first "! ! ! ..." ][ opening ]
    e <- e - η sign( ∇_e of the mean over questions of people A of -log p( opening ) )
    found: said in what is written from [ question about B ][ e ],        A and B disjoint people

Vectors that were pushed for one question could carry what is asked of that one; vectors that work for people they were never pushed
for have found a switch. They learn from forgotten people whom nobody asks about; where there are none, each half of the people is asked
with the vectors of the other half.
Needs: the weights, and two forgotten people.
Differs from the paper: five vectors in place of twenty, which fitted few questions by heart and found less of others; the step is relative
to the model's own embeddings; 64 tokens are written after the last iteration only.
Differs from the authors' code: not used.
Fails when: the people are so few that the vectors fit their names alone; the loss in the notes is then low and nothing is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from expunge.attacks._attack import Found, Kind, Opened, OpeningAttack, Reading, Suite
from expunge.attacks._case import Case
from expunge.attacks._embeds import Slots, first_vectors, in_batches, losses, size_of, slots_of, written
from expunge.attacks._recall import found_in, whose
from expunge.types import Seed

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM


class SoftPrompt(OpeningAttack):
    id: ClassVar[str] = "W4"
    suite: ClassVar[Suite] = "standard"
    kind: ClassVar[Kind] = "open"
    version: ClassVar[int] = 2

    vectors: int = Field(5, ge=1)
    """How many stand after the question."""
    step: float = Field(0.05, gt=0)
    """η as a share of the root mean square of the embeddings of the prompts' tokens."""
    iterations: int = Field(100, ge=1)
    """Steps of the vectors."""
    batch_size: int = Field(16, ge=1)
    """Questions in one iteration."""

    def read(self, opened: Opened) -> Reading:
        lm = opened.lm
        rows = slots_of(lm, opened.cases, self.vectors)
        if not rows:
            return Reading(why="no row says which words carry the fact, or all are too long for this model")
        known = slots_of(lm, opened.known, self.vectors)
        folds = [(known, rows)] if known else _halves(rows, opened.cases)
        if not folds:
            return Reading(why="all rows are about one person, so no other is left to train on")
        lm.model.requires_grad_(False)
        found: list[Found] = []
        notes: dict[str, list[float]] = {}
        for number, (seen, asked) in enumerate(folds):
            vectors, curve = self._trained(lm, seen, opened.seed.child("fold", number))
            for batch in in_batches(lm, asked):
                texts = written(lm, batch, vectors.expand(len(batch), -1, -1))
                for one, ids in zip(batch, texts, strict=True):
                    prompt = f"{opened.cases[one.case].question} [{self.vectors} vectors]"
                    found.append(
                        found_in(
                            one.case,
                            lm.encoder.decode(ids),
                            opened.cases,
                            f"{self.iterations} iterations",
                            prompt,
                        )
                    )
            moved = float((vectors - first_vectors(lm, seen[:1])[0]).norm())
            for name, value in {**curve, "distance": moved, "questions trained on": float(len(seen))}.items():
                notes.setdefault(name, []).append(value)
        return Reading(found, {name: float(np.mean(values)) for name, values in notes.items()})

    def _trained(
        self, lm: TransformerLM, rows: Sequence[Slots], seed: Seed
    ) -> tuple[Tensor, dict[str, float]]:
        """[slots, hidden] vectors, and the mean loss over these rows before and after."""
        vectors = first_vectors(lm, rows[:1])[0]
        step = self.step * size_of(lm, rows)
        before = _mean_loss(lm, rows, vectors)
        chance, order = np.random.default_rng(seed.number), []
        for _ in range(self.iterations):
            while len(order) < min(self.batch_size, len(rows)):
                order += chance.permutation(len(rows)).tolist()
            drawn, order = order[: self.batch_size], order[self.batch_size :]
            free = vectors.detach().requires_grad_(True)
            gradient = torch.zeros_like(vectors)
            for batch in in_batches(lm, [rows[i] for i in drawn]):
                loss = losses(lm, batch, free.expand(len(batch), -1, -1)).sum()
                gradient += torch.autograd.grad(loss, free)[0]
            vectors = vectors - step * gradient.sign()
        return vectors, {"loss before": before, "loss after": _mean_loss(lm, rows, vectors)}


def _mean_loss(lm: TransformerLM, rows: Sequence[Slots], vectors: Tensor) -> float:
    with torch.no_grad():
        parts = [losses(lm, batch, vectors.expand(len(batch), -1, -1)) for batch in in_batches(lm, rows)]
    return float(torch.cat(parts).mean())


def _halves(rows: Sequence[Slots], cases: Sequence[Case]) -> list[tuple[list[Slots], list[Slots]]]:
    """What to train on and what to ask, twice: people one by one in turn into two halves."""
    people = list(dict.fromkeys(whose(cases[one.case]) for one in rows))
    if len(people) < 2:
        return []
    half = [people.index(whose(cases[one.case])) % 2 for one in rows]
    parts = [[one for one, which in zip(rows, half, strict=True) if which == part] for part in (0, 1)]
    return [(parts[0], parts[1]), (parts[1], parts[0])]
