"""What every adapter here starts from: the peft library's LoRA on linear layers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def with_lora(
    model: PreTrainedModel, rank: int, alpha: int, targets: str | list[str], seed: int
) -> PeftModel:
    """The model with fresh adapters, which alone are trainable. The same seed gives the same start."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # peft reads a name that transformers is about to rename
        torch.manual_seed(seed)
        return get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
        )


def lora_layers(adapted: PeftModel) -> dict[str, Any]:
    """The adapted linear layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in adapted.named_modules() if isinstance(module, LoraLayer)}
