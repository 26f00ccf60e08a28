"""Adapter strip: take the adapter off, or let it count for half.

    h = W x + s · B A x,    s = 0 (taken off), 1/2 of what it was

Where unlearning is an adapter beside weights that never changed, whoever has the files has the model before unlearning: s = 0 gives it
back, bit for bit. Merge the adapter before the model leaves the house, and this attack is gone; `quantization` and `relearning` are not.
Needs: an artifact that is an adapter. A guard's hooks come off as easily; there the knowledge is retained, and no number is needed.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: the adapter is merged already.
"""

from __future__ import annotations

from typing import ClassVar

from expunge.attacks._attack import Opened, OpeningAttack, Reading
from expunge.attacks._recall import recalled
from expunge.models.merged import scale_adapters, strip_adapters


class AdapterStrip(OpeningAttack):
    id: ClassVar[str] = "W9"

    def read(self, opened: Opened) -> Reading:
        lm = opened.lm
        layers = scale_adapters(lm.model, 0.5)
        if not layers:
            return Reading(why="there is no adapter to take off: the weights themselves were changed")
        half = recalled(lm, opened.cases, "half of the adapter")
        strip_adapters(lm.model)
        return Reading(
            [*recalled(lm, opened.cases, "adapter taken off"), *half], {"adapted layers": float(layers)}
        )
