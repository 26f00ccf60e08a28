"""Staying close in hidden states, the retain side of RMU (Li et al., 2024, arXiv:2403.03218).

    R(θ) = mean over retain tokens of  mean_d ( h_k(x) - h_k^ref(x) )²

Needs: hidden states of one block on retain rows, and the same from the frozen starting model (cached).
Differs from the paper: tokens are those of answers (for a text row, all but the first).
Differs from the authors' code: the reference is cached, no second model is loaded.
Fails when: what has to be kept depends on later blocks that forget rows change in another way.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class Embed(Settings):
    needs: ClassVar = frozenset({"retain", "hidden", "ref_hidden"})

    layer: int | None = Field(None, ge=0)
    """The block, counted from 0. None: that of the objective."""

    def __call__(self, view: TokenView) -> Tensor:
        return view.token_mean((view.hidden - view.ref_hidden).square().mean(-1))
