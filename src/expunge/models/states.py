"""Hidden states of prompts, one vector each, as the model has them while it is about to answer; and of every token of a row.

A prompt is rendered in the model's own template, so a probe reads what the model reads at that moment and not bare text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from expunge.data.batching import by_length, collate
from expunge.errors import ConfigError
from expunge.models.edited import Edits, editing
from expunge.models.hidden import block_output

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM
    from expunge.types import Example, Prompt

Pool = Literal["last", "mean"]


def block_number(lm: TransformerLM, layer: int) -> int:
    """The block that `layer` means; negative numbers count from the last one, -1. Raises ConfigError when there is none."""
    count = lm.model.config.get_text_config().num_hidden_layers
    if not -count <= layer < count:
        raise ConfigError(
            f"layer {layer}: this model has blocks 0 to {count - 1} (or -{count} to -1, counted from the last)."
        )
    return layer % count


def states(lm: TransformerLM, prompts: Sequence[Prompt], layer: int, pool: Pool = "last") -> np.ndarray:
    """[n, hidden] float32: what block `layer` puts out (before any final norm) at the last token of each prompt, or its mean
    over the prompt's tokens. Padding has no part in either. Blocks behind `layer` are not run.
    """
    encoded = lm.encoder.prompts(prompts)
    block = block_number(lm, layer)
    found = np.empty((len(encoded), lm.model.config.get_text_config().hidden_size), dtype=np.float32)
    with lm._lock, torch.inference_mode():
        for rows in by_length([len(row.ids) for row in encoded], lm.batch_tokens):
            batch = collate([encoded[row] for row in rows], lm.pad_id, device=lm.model.device)
            out = block_output(lm.model, batch, block).float()  # [batch, tokens, hidden]
            lengths = batch.attention.sum(1)
            if pool == "last":
                pooled = out[torch.arange(len(rows), device=out.device), lengths - 1]
            else:
                pooled = (out * batch.attention[..., None]).sum(1) / lengths[:, None]
            found[rows] = pooled.cpu().numpy()
    return found


def token_states(
    lm: TransformerLM, examples: Sequence[Example], layer: int, edits: Edits | None = None
) -> list[np.ndarray]:
    """For each row [its tokens but the first, hidden] float32: what block `layer` puts out while `edits` are in force behind
    earlier blocks. The first token, often a start token that holds no text and dwarfs the others, is left out.
    """
    encoded = lm.encoder.examples(examples)
    found: list[np.ndarray] = [np.empty(0)] * len(encoded)
    with lm._lock, torch.inference_mode():
        for rows in by_length([len(row.ids) for row in encoded], lm.batch_tokens):
            batch = collate([encoded[row] for row in rows], lm.pad_id, device=lm.model.device)
            with editing(lm.model, edits or {}, [True] * len(rows)):
                out = block_output(lm.model, batch, block_number(lm, layer)).float().cpu().numpy()
            for row, kept in zip(rows, out, strict=True):
                found[row] = kept[1 : len(encoded[row].ids)].copy()
    return found
