"""WAGLE, weight attribution (Jia et al., 2024, arXiv:2410.17509).

    s_i = ( θ_i - g_r,i / γ ) · g_f,i,     the largest |s_i| of all parameters move,     g = mean gradients of -log p

The first-order effect that a change of θ_i has on the forget loss once the retain loss has been optimised again; γ stands for
the curvature of the retain loss.
Needs: forget and retain gradients at the starting model, once.
Differs from the paper: nothing; γ is quoted on mean gradients.
Differs from the authors' code: theirs divides sums over batches, so its γ means γ / batches here (`gamma_on: sum` reads it so).
At the released γ = 1e-6 the θ term vanishes and the score is |g_r · g_f|. Unselected weights stay bit for bit as they were; there,
weight decay moves them.
Fails when: γ is taken from a config without its reading, or adapters freeze the weights that the mask picks.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import ParameterView


class WAGLE(Settings):
    needs: ClassVar = frozenset({"forget", "retain"})

    share: float = Field(0.95, gt=0, le=1)
    """Share of all parameters that may move. The authors take 0.95 for TOFU, 0.4 to 0.6 for WMDP."""
    gamma: float = Field(1e-3, gt=0)
    """γ, in the reading of `gamma_on`. Large: SNIP's |θ g_f|. Small: |g_r g_f|."""
    gamma_on: Literal["mean", "sum"] = "mean"
    """mean: of mean gradients. sum: of gradients summed over batches, as the authors' code has them."""

    def score(self, seen: ParameterView) -> Tensor:
        gamma = self.gamma / seen.batches if self.gamma_on == "sum" else self.gamma
        return ((seen.weight - seen.retain / gamma) * seen.forget).abs()
