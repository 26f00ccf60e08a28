"""WGA, weighted gradient ascent, the same as SimSat (Wang et al., 2025, arXiv:2502.19301).

    w_t = sg( p_θ(y_t | x, y_<t)^β )

Tokens that are still likely are pushed, tokens already gone are left: the ascent saturates.
Needs: nothing beyond the forward it weighs.
Differs from the paper: nothing; the mean divides by the number of tokens, not by the sum of weights.
Differs from the authors' code: no reference model is loaded (public code keeps one and never reads it).
Fails when: β is large: almost no token is pushed once p is below 0.9.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class WGA(Settings):
    needs: ClassVar = frozenset()

    beta: float = Field(1.0, ge=0)
    """0 is gradient ascent. The authors' code uses 5, open-unlearning 1."""

    def __call__(self, view: TokenView) -> Tensor:
        return (self.beta * view.logp).exp().detach()  # [answer]
