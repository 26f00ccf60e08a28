"""Fine-tuning on retain rows, called GDR or NLL (Maini et al., 2024, arXiv:2401.06121).

    R(θ) = - mean over retain tokens of  log p_θ(y_t | x, y_<t)

Needs: retain rows.
Differs from the paper: the mean is over all answer tokens of the optimiser step.
Differs from the authors' code: the same.
Fails when: the retain rows do not cover what should be kept; knowledge that nobody replays fades first.
"""

from typing import ClassVar

from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class NLL(Settings):
    needs: ClassVar = frozenset({"retain"})

    def __call__(self, view: TokenView) -> Tensor:
        return view.token_mean(-view.logp)
