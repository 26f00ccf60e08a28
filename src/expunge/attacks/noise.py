"""Noise: shake every weight a little, and see whether the fact falls out.

    w' = w + e,    e ~ N( 0, σ² rms(W)² ),    rms over the matrix that w is in;    σ = 0.05, 0.1, 0.2

What a model learned over many steps lies in wide valleys, and what a few steps of unlearning laid over it can be narrower than the noise.
Every strength has draws of its own; all models that are compared get the same ones.
Needs: the weights. Adapters are merged first. Embeddings and the output head stay as they are.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: the noise breaks the rest as well: what is left of the retain rows says so.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from expunge.attacks._attack import Found, Opened, OpeningAttack, Reading
from expunge.attacks._recall import recalled
from expunge.attacks._weights import answered, matrices, rewritten
from expunge.models.merged import merge_adapters


class Noise(OpeningAttack):
    id: ClassVar[str] = "W8b"

    strengths: tuple[float, ...] = Field((0.05, 0.1, 0.2), min_length=1)
    """σ, of the root of a matrix's mean square."""

    def read(self, opened: Opened) -> Reading:
        import torch

        lm = opened.lm
        merge_adapters(lm.model)
        weights = matrices(lm.model)
        found: list[Found] = []
        notes: dict[str, float | None] = {"retain rows answered before": answered(lm, opened.retain)}
        for strength in self.strengths:
            source = torch.Generator().manual_seed(opened.seed.child("noise", strength).number)

            def shaken(name, weight, strength=strength, source=source):
                drawn = torch.randn(weight.shape, generator=source).to(weight)
                return weight + strength * weight.square().mean().sqrt() * drawn

            variant = f"noise {strength:g}"
            with rewritten(weights, shaken):
                found += recalled(lm, opened.cases, variant)
                notes[f"{variant}: retain rows answered"] = answered(lm, opened.retain)
        return Reading(found, notes)
