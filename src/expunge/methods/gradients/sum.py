"""The plain sum of both gradients (GradDiff form; Liu et al., 2022, arXiv:2203.12817).

    g = g_u + g_r

Needs: one backward of the summed loss.
Differs from the paper: nothing.
Differs from the authors' code: nothing.
Fails when: the two gradients point against each other; their sum then moves neither set the way its term asks.
"""

from typing import ClassVar

from torch import Tensor

from expunge.config import Settings


class Sum(Settings):
    separate: ClassVar = False

    def combine(
        self, unlearn: list[Tensor], retain: list[Tensor], memory: dict[str, Tensor]
    ) -> dict[str, float]:
        for g, r in zip(unlearn, retain, strict=True):
            g.add_(r)
        return {}
