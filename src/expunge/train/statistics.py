"""What the starting model's gradients say about rows: their mean, and the mean of their squares (the diagonal Fisher)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from expunge.data.batching import by_length, collate
from expunge.data.tokenize import Encoded
from expunge.models.logprobs import answer_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def mean_gradients(
    model: PreTrainedModel, weights: Mapping[str, Tensor], rows: Sequence[Encoded], pad_id: int, size: int
) -> dict[str, Tensor]:
    """Gradients, by tensor, of the mean negative log-likelihood of all answer tokens of `rows`, in float32."""
    model.eval()
    total = sum(len(row.ids) - row.start for row in rows)
    model.zero_grad(set_to_none=True)
    longest = max(len(row.ids) for row in rows)
    for near in by_length([len(row.ids) for row in rows], size * longest):
        batch = collate([rows[i] for i in near], pad_id, device=model.device)
        (-answer_rows(model, batch).logp.sum() / total).backward()
    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in weights.items()
    }
    model.zero_grad(set_to_none=True)
    return found


def mean_squares(
    model: PreTrainedModel, weights: Mapping[str, Tensor], rows: Sequence[Encoded], pad_id: int
) -> dict[str, Tensor]:
    """Means over `rows`, by tensor, of the squared gradient of each row's log-probability, row by row."""
    model.eval()
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for row in rows:
        model.zero_grad(set_to_none=True)
        batch = collate([row], pad_id, device=model.device)
        answer_rows(model, batch).logp.sum().backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                found[name].addcmul_(weight.grad, weight.grad, value=1 / len(rows))
    model.zero_grad(set_to_none=True)
    return found
