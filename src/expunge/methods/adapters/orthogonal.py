"""O3's orthogonal adapters, one for each request (Gao et al., 2024, arXiv:2407.10223).

    W_k = W + (α/r) · Σ_{j≤k} B_j A_j,      L_k = L + λ · (1 / layers) Σ over modules of  Σ_{j<k} || A_j A_kᵀ ||_F²

Request k trains an adapter of its own beside the earlier ones, which stay in force and frozen. The penalty makes it read other
directions of the input than they do, so that a later request does not undo an earlier one. It is zero exactly when the rows of
A_k are orthogonal to those of every earlier A; the first request is plain LoRA.
Needs: the earlier adapters; r² · inputs operations for each adapted module and earlier request in a step.
Differs from the paper: all adapters always act; the paper weighs them for each prompt by how much it looks like the requests.
Differs from the authors' code: theirs goes on from the adapter that it penalises, whose overlap with itself is then large from
the start; here each request starts afresh. Every linear layer by default.
Fails when: the requests together ask for more rank than a layer has inputs.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.methods.adapters._peft import activate, lora_layers, with_lora
from expunge.types import Seed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Orthogonal(Settings):
    artifact: ClassVar = "adapter"

    rank: int = Field(8, ge=1)
    """Of each request's adapter. The authors take 8."""
    alpha: int = Field(16, ge=1)
    """The adapter's output is scaled by alpha / rank. The authors take 16."""
    targets: str | list[str] = "all-linear"
    """Module names, or "all-linear" for every linear layer but the head."""
    weight: float = Field(0.1, ge=0)
    """λ: the penalty's coefficient. The authors' is 0.1."""

    def attach(self, model: PreTrainedModel, seed: int, squares: object = None) -> PeftModel:
        """The model with the first request's adapters, which alone are trainable; nothing is asked of the rows."""
        return with_lora(model, self.rank, self.alpha, self.targets, seed)

    def attach_next(self, adapted: PeftModel, number: int, seed: int) -> None:
        """Give request `number` (2, 3, ...) fresh adapters beside the earlier ones, which stay in force and no longer train."""
        config = deepcopy(adapted.peft_config["default"])
        config.inference_mode = False
        with torch.random.fork_rng():
            # not the first request's start over again
            torch.manual_seed(Seed(seed).child("request", number).number)
            adapted.add_adapter(f"request-{number}", config)
        activate(adapted, trained=f"request-{number}")

    def penalty(self, model: PreTrainedModel | PeftModel) -> Tensor:
        """λ times the overlap of the latest request's A with all earlier ones; no gradient reaches those."""
        overlap = torch.zeros(())
        for layer in lora_layers(model).values():
            *earlier, latest = (a.weight for a in layer.lora_A.values())  # [rank, inputs] each
            for a in earlier:
                overlap = overlap.to(latest.device) + (a.detach() @ latest.T).square().sum()
        config: Any = model.config
        return self.weight * overlap / config.get_text_config().num_hidden_layers
