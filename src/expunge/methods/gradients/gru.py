"""GRU, gradient rectified unlearning (Wang et al., 2025, arXiv:2503.09117).

    g = g_u                              if <g_u, m> >= 0
    g = g_u - (<g_u, m> / ||m||²) · m    otherwise,      m_t = γ · g_r,t + (1 - γ) · m_{t-1},  m_0 = 0

The nearest direction to the unlearning gradient that does not raise the (smoothed) retain loss. The projection does not
change when m is scaled, so no bias correction is needed. With a retain term its own gradient is added afterwards; without
one the retain loss serves for the projection alone.
Needs: both gradients of one whole optimiser step, accumulated first and projected once.
Differs from the paper: nothing; the dot products are summed in float64.
Differs from the authors' code: two scalars cross tensors instead of flattening all gradients to float64 on the CPU.
Fails when: the retain gradient is only rounding, as that of `kl` and `embed` at the first step: so is the direction kept to. And
where the optimiser preconditions: after Adam the step may conflict with the retain gradient again. The trace has both
cosines: `cosine` of the unlearning gradient before the projection, `step_cosine` of Adam's step with the step's retain gradient.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings


class GRU(Settings):
    separate: ClassVar = True

    gamma: float = Field(0.8, gt=0, le=1)
    """Weight of the newest retain gradient in its moving average; 1 uses the current one alone."""

    clip: float | None = Field(None, ge=-1, lt=0)
    """Rectify no more than a conflict of this cosine asks for; -0.5 in the authors' code. A sharper one then stays in part."""

    def combine(
        self, unlearn: list[Tensor], retain: list[Tensor], memory: dict[str, Tensor]
    ) -> dict[str, float]:
        for i, g in enumerate(retain):
            smooth = memory.setdefault(str(i), torch.zeros_like(g))
            smooth.mul_(1 - self.gamma).add_(g, alpha=self.gamma)
        smooth = [memory[str(i)] for i in range(len(retain))]
        before = _dot(unlearn, smooth)
        size = _dot(smooth, smooth)
        cosine = before / max((size * _dot(unlearn, unlearn)) ** 0.5, 1e-30)
        if before < 0:
            share = 1.0 if self.clip is None else min(1.0, self.clip / cosine)
            for g, m in zip(unlearn, smooth, strict=True):
                g.sub_(m, alpha=share * before / size)
        return {"cosine": cosine, "rectified": float(before < 0)}


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))
