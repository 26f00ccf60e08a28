"""SatImp, saturation times importance (Yang et al., 2025, arXiv:2505.11953).

    w_t = sg( p_t^β1 · (1 - p_t)^β2 ),   p_t = p_θ(y_t | x, y_<t)

The weight peaks at p = β1 / (β1 + β2): tokens that are still known, but not the ones that every model gets right.
Needs: nothing beyond the forward it weighs.
Differs from the paper: nothing; 1 - p is taken as -expm1(log p) in float32, as p > 0.998 rounds to 1 in bfloat16.
Differs from the authors' code: their README has β2 = 0.1, open-unlearning 1.0; at p = 0.998 that is a factor of 268.
Fails when: β2 is near 1 on a model that has memorised its answers: all weights start near zero.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class SatImp(Settings):
    needs: ClassVar = frozenset()

    beta1: float = Field(5.0, ge=0)
    """Saturation: large values attend to what is still memorised."""
    beta2: float = Field(0.1, ge=0)
    """Importance: large values skip tokens that are nearly certain."""

    def __call__(self, view: TokenView) -> Tensor:
        logp = view.logp.detach().float()
        return (self.beta1 * logp).exp() * (-torch.expm1(logp)).pow(self.beta2)  # [answer]
