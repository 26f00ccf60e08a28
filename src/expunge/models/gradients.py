"""How strongly an answer would still pull at the weights: the gradient norms that membership attacks read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from expunge.data.batching import collate
from expunge.types import Example

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM


def gradient_norms(lm: TransformerLM, examples: Sequence[Example]) -> list[float]:
    """Mean over parameter tensors of the 2-norm of the gradient of the mean NLL per answer token, one example at a time.

    The model stays in evaluation mode, and its own gradients are not touched.
    """
    weights = [parameter for parameter in lm.model.parameters() if parameter.is_floating_point()]
    frozen = [parameter for parameter in weights if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        return [_norm(lm, row, weights) for row in lm.encoder.examples(examples)]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _norm(lm: TransformerLM, row, weights: list[torch.nn.Parameter]) -> float:
    batch = collate([row], lm.pad_id, device=lm.model.device)
    logits = lm.model(input_ids=batch.ids, attention_mask=batch.attention).logits[0, row.start - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits.float(), batch.ids[0, row.start :])
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    norms = [gradient.float().norm() for gradient in found if gradient is not None]
    return float(torch.stack(norms).mean())
