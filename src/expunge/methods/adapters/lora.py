"""LoRA, low-rank adapters (Hu et al., 2021, arXiv:2106.09685), through the peft library.

    W' = W + (α/r) · B A,   B = 0 at the start

Needs: nothing; the starting model stays untouched in memory and the artifact is a small adapter.
Differs from the paper: all linear layers by default, not only query and value.
Differs from the authors' code: peft's implementation.
Fails when: run at a full-weight learning rate: published LoRA unlearning runs use 1e-4 to 3e-4 where full weights use 1e-5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.config import Settings
from expunge.methods.adapters._peft import with_lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class LoRA(Settings):
    artifact: ClassVar = "adapter"

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    """The adapter's output is scaled by alpha / rank."""
    targets: str | list[str] = "all-linear"
    """Module names, or "all-linear" for every linear layer but the head."""

    def attach(self, model: PreTrainedModel, seed: int, squares: object = None) -> PeftModel:
        """The model with fresh adapters, which alone are trainable; nothing is asked of the rows."""
        return with_lora(model, self.rank, self.alpha, self.targets, seed)
