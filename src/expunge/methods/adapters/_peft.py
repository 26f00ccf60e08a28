"""What every adapter here starts from: the peft library's LoRA on linear layers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
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


def lora_layers(adapted: nn.Module) -> dict[str, Any]:
    """The adapted linear layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in adapted.named_modules() if isinstance(module, LoraLayer)}


def activate(adapted: PeftModel, trained: str | None = None) -> None:
    """Let all adapters act together; only those named `trained` take a gradient."""
    tuner: Any = adapted.base_model
    tuner.set_adapter(list(adapted.peft_config), inference_mode=True)
    if trained:
        for layer in lora_layers(adapted).values():
            for part in (layer.lora_A[trained], layer.lora_B[trained]):
                part.requires_grad_(True)


def load_adapters(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with what `save_pretrained` left: the first request's adapters, and those of later ones in folders of their own,
    all of them acting and none trainable.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    later = sorted(folder.glob("request-*"), key=lambda path: int(path.name.partition("-")[2]))
    for path in (folder, *later):
        if not (path / "adapter_model.safetensors").is_file():
            raise ModelError(f"{path}: adapter_model.safetensors is missing. Make the run again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # as when they were made
            adapted = PeftModel.from_pretrained(model, str(folder))
            for path in later:
                adapted.load_adapter(str(path), path.name)
    except SafetensorError as error:
        raise ModelError(
            f"{folder}: a file of the adapter is damaged ({error}). Make the run again."
        ) from None
    activate(adapted)
    return adapted
