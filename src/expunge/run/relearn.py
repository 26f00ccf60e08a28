"""The training that the relearning attack starts with; attacks themselves import no training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.recipes import TrainSettings, recipe
from expunge.types import Example, Probe, Prompt


def relearn(lm: Any, rows: Sequence[Probe], settings: TrainSettings, seed: int) -> list[dict[str, Any]]:
    """Fine-tune all weights of a loaded model, in place, on the answers of `rows`. Returns the trace of the loop."""
    import torch

    from expunge.train.feed import Feed, Rows
    from expunge.train.loop import train

    cpu = lm.model.device.type == "cpu"
    torch.use_deterministic_algorithms(True, warn_only=not cpu)
    merge_adapters(lm.model)
    lm.model.requires_grad_(True)
    made = recipe("retrain", train=settings, seed=seed)  # likelihood alone, of the rows alone
    encoded = lm.encoder.examples([Example(Prompt.ask(row.question), row.answer, row.id) for row in rows])
    return train(lm.model, Feed(lm.model, made, Rows(retain=encoded), lm.pad_id), made).trace


def merge_adapters(model: Any) -> None:
    """Write adapters into the weights that they stand beside, and take them away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
