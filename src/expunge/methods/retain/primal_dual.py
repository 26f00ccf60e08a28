"""Retention as a constraint, the retain side of PDU (Entesari et al., 2025, arXiv:2506.05314).

    min L_forget(θ)  subject to  R(θ) <= ε:      loss = γ L_forget + λ R,     λ <- max(0, λ + η (R - ε)) after each step,

R the mean negative log-likelihood of retain tokens. The multiplier λ grows while the retain loss is above its limit and falls
while there is room, so no coefficient has to be guessed.
Needs: retain rows, and a limit slightly above what the starting model has on them.
Differs from the paper: the multiplier starts at `start` and learns from the first step; the paper's warm-up epochs are not built.
Differs from the authors' code: one update per optimiser step with the whole step's loss; theirs learns per micro-batch, so
that η depends on how a step is cut.
Fails when: the limit is below what the model can reach while it forgets: λ then grows without end and forgetting stops.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class PrimalDual(Settings):
    needs: ClassVar = frozenset({"retain"})

    limit: float = Field(0.1, gt=0)
    """ε: the highest retain loss that is allowed, nats per token. Slightly above the starting model's."""
    rate: float = Field(1.0, ge=0)
    """η: how fast the multiplier follows."""
    start: float = Field(1.0, ge=0)
    """λ at the first step."""

    def __call__(self, view: TokenView) -> Tensor:
        return view.token_mean(-view.logp)

    def multiplier(self, memory: dict[str, Tensor]) -> float:
        """λ as it stands; `memory` lives as long as the run."""
        return float(memory.get("multiplier", torch.tensor(self.start, dtype=torch.float64)))

    def learn(self, loss: float, memory: dict[str, Tensor]) -> None:
        """Move λ by the retain loss of a whole optimiser step."""
        moved = self.multiplier(memory) + self.rate * (loss - self.limit)
        memory["multiplier"] = torch.tensor(max(0.0, moved), dtype=torch.float64)
