"""Interpolation: go part of the way from the unlearned weights to those before unlearning, and past the unlearned ones.

    θ(t) = ( 1 - t ) θ_unlearned + t θ_original,    t = -1, -1/2, 1/4, 1/2, 3/4

t = 1 is the original itself and is left out. The lower the t at which facts are back, the nearer the unlearned model has stayed to what it
knew; t < 0 goes on in the direction of unlearning, where a fact that was only pushed down can come up again. Whoever has the original needs
no attack: this measures a distance, so it does not count as a fact that came out.
Needs: the weights, and those before unlearning, with the same tensors. Adapters are merged first.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: the two models lie in different valleys, as a gold does that was trained from the start: then all in between are broken.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from expunge.attacks._attack import Found, Kind, Opened, OpeningAttack, Reading
from expunge.attacks._recall import rate, recalled
from expunge.attacks._weights import answered, rewritten, same_shapes
from expunge.models.merged import merge_adapters


class Interpolation(OpeningAttack):
    id: ClassVar[str] = "W10"
    kind: ClassVar[Kind] = "inside"

    places: tuple[float, ...] = Field((-1.0, -0.5, 0.25, 0.5, 0.75), min_length=1)
    """t. 0 is the unlearned model, 1 the original."""

    def read(self, opened: Opened) -> Reading:
        if opened.original is None:
            return Reading(why="the model before unlearning is not known: give --target")
        lm, original = opened.lm, opened.original()
        merge_adapters(lm.model)
        merge_adapters(original.model)
        mine = dict(lm.model.named_parameters())
        theirs = {name: weight.detach() for name, weight in original.model.named_parameters()}
        if not same_shapes(mine, theirs):
            return Reading(
                why="the model before unlearning has other tensors, so there is no way between the two"
            )
        found: list[Found] = []
        notes: dict[str, float | None] = {}
        for t in self.places:
            with rewritten(mine, lambda name, weight, t=t: weight + t * (theirs[name] - weight)):
                rows = recalled(lm, opened.cases, f"t = {t:g}")
                notes[f"t = {t:g}: recalled"] = rate(rows)
                notes[f"t = {t:g}: retain rows answered"] = answered(lm, opened.retain)
            found += rows
        return Reading(found, notes)
