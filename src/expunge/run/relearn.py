"""The training that attacks start with; attacks themselves import no training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.models.merged import merge_adapters
from expunge.recipes import TrainSettings, recipe
from expunge.types import Example


def fine_tune(lm: Any, rows: Sequence[Example], settings: TrainSettings, seed: int) -> list[dict[str, Any]]:
    """Fine-tune all weights that text reaches, in place, on the answers of `rows`. Returns the trace of the loop."""
    import torch

    from expunge.train.feed import Feed, Rows
    from expunge.train.loop import train

    cpu = lm.model.device.type == "cpu"
    torch.use_deterministic_algorithms(True, warn_only=not cpu)
    merge_adapters(lm.model)
    lm.let_train()
    made = recipe("retrain", train=settings, seed=seed)  # likelihood alone, of the rows alone
    return train(
        lm.model, Feed(lm.model, made, Rows(retain=lm.encoder.examples(rows)), lm.pad_id), made
    ).trace
