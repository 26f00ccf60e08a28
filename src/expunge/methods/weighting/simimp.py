"""SimImp, importance by lack of confidence (Yang et al., 2025, arXiv:2505.11953).

    w_t = sg( (1 - p_t)^β ),   p_t = p_θ(y_t | x, y_<t)

Tokens that every context makes likely are left alone; those that carry the fact are pushed. One half of SatImp.
Needs: nothing beyond the forward it weighs.
Differs from the paper: nothing; 1 - p is taken as -expm1(log p) in float32, as p > 0.998 rounds to 1 in bfloat16.
Differs from the authors' code: nothing.
Fails when: the answers are memorised: every token is then nearly certain and no weight is left.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class SimImp(Settings):
    needs: ClassVar = frozenset()

    beta: float = Field(0.1, ge=0)
    """0 is gradient ascent."""

    def __call__(self, view: TokenView) -> Tensor:
        return (-torch.expm1(view.logp.detach().float())).pow(self.beta)  # [answer]
