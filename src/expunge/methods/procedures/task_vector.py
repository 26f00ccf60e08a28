"""Task-vector negation (Ilharco et al., 2022, arXiv:2212.04089; for unlearning as in MUSE, arXiv:2407.06460).

    θ* = θ - α · ( θ_reinforced - θ ),      θ_reinforced = the target trained further on the forget set

What learning the forget set once more adds to the weights is taken away, α times.
Needs: forget rows; a second copy of the trained weights, outside the accelerator, until the subtraction is done.
Differs from the paper: the origin is the target itself (MUSE's reading), not the pretrained model.
Differs from the authors' code: the subtraction is in float32; in bfloat16 four fifths of the differences are rounded away.
Fails when: α is large: errors and side effects of the reinforcement are multiplied with it.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings


class TaskVector(Settings):
    claim: ClassVar = "approximate"
    forgets: ClassVar = True
    start: ClassVar = "target"
    reinforces: ClassVar = True

    alpha: float = Field(1.0, ge=0)
    """How many times the difference is taken away. MUSE sweeps it and ends at 5."""

    def finish(self, weights: dict[str, Tensor], start: dict[str, Tensor]) -> None:
        """Rewrite the reinforced `weights` in place, given those that training started from; both float32."""
        with torch.no_grad():
            for name, weight in weights.items():
                origin = start[name].to(weight.device)
                weight.copy_(origin - self.alpha * (weight - origin))
