"""Weights at random, the control that any selection has to beat (no paper of its own; compared with in arXiv:2410.17509).

    s_i ~ U(0, 1),     the largest move

Needs: nothing.
Differs from the paper: nothing.
Differs from the authors' code: drawn from the run's own seed.
Fails when: it does as well as the selection it is compared with; then that selection selects nothing.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import ParameterView


class Random(Settings):
    needs: ClassVar = frozenset()

    share: float = Field(0.95, gt=0, le=1)
    """Share of all parameters that may move."""

    def score(self, seen: ParameterView) -> Tensor:
        generator = torch.Generator().manual_seed(seen.seed)
        return torch.rand(seen.weight.shape, generator=generator).to(seen.weight.device)
