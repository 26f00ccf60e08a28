"""RMU, representation misdirection (Li et al., 2024, arXiv:2403.03218).

    L(θ) = mean over forget tokens of  mean_d ( h_k(x) - u )²,     u = c · r / ||r||,   r ~ U[0, 1)^d drawn once

The hidden state after block k is driven to one fixed meaningless direction whenever a forget text passes. Published with the
retain term `embed` and with only mlp.down_proj of blocks k-2 to k training (`layers`).
Needs: hidden states of one block; the forward stops behind it, and starts at the first block that trains.
Differs from the paper: tokens are those of answers (for a text row, all but the first), at their own positions.
Differs from the authors' code: only what trains gets a gradient, so the clip norm is not that of seven billion others.
Fails when: c is far from the size of the model's own hidden states; it has to be found anew for every model.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import Streams


class RMU(Settings):
    needs: ClassVar = frozenset({"forget", "hidden"})
    weighted: ClassVar = False

    layer: int = Field(7, ge=0)
    """k, counted from 0. The authors take 7 for models of 7B."""
    size: float = Field(6.5, gt=0)
    """c: the length of u. 6.5 for Zephyr-7B."""
    draw: int = 0
    """Another number, another direction."""

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        generator = torch.Generator().manual_seed(self.draw)
        direction = torch.rand(view.hidden.shape[-1], generator=generator)  # not Gaussian: as published
        goal = (self.size * direction / direction.norm()).to(view.hidden)
        return view.token_mean((view.hidden - goal).square().mean(-1))
