"""Log-probabilities of answer tokens: one forward, and only the rows that predict an answer token meet the vocabulary."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from expunge.data.batching import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AnswerRows(NamedTuple):
    """Everything about the answer tokens of a batch, flat, row after row."""

    logits: Tensor  # [answer, vocab] float32
    targets: Tensor  # [answer] the given tokens
    row: Tensor  # [answer] which sequence
    length: Tensor  # [batch] answer tokens per sequence
    hidden: Tensor  # [answer, hidden] what the head was given

    @property
    def logp(self) -> Tensor:
        """[answer] log p of the given token, nats."""
        return token_logp(self.logits, self.targets)


def token_logp(logits: Tensor, targets: Tensor) -> Tensor:
    """[n, vocab] logits and [n] ids to [n] log-probabilities."""
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)


def answer_rows(model: PreTrainedModel, batch: Batch) -> AnswerRows:
    """Forward a right-padded batch and project only the positions whose next token is an answer token."""
    predicts = torch.zeros_like(batch.answer)
    predicts[:, :-1] = batch.answer[:, 1:]
    with head_rows(model, predicts) as seen:
        logits = model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False).logits
    return AnswerRows(
        logits.float(), batch.ids[batch.answer], predicts.nonzero()[:, 0], batch.answer.sum(1), seen[0]
    )


@contextmanager
def head_rows(model: PreTrainedModel, rows: Tensor) -> Generator[list[Tensor]]:
    """While open, the output head projects only the positions in `rows` ([batch, tokens] bool): logits come as [n, vocab].

    Whatever the model does to its logits after the head (capping, scaling) it does to these rows too. Yields the list that
    receives the head's input. The hook is taken away by its own handle, whatever happens.
    """
    seen: list[Tensor] = []

    def select(module, inputs):
        hidden = inputs[0][rows.to(inputs[0].device)]
        seen.append(hidden)
        return (hidden,)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield seen
    finally:
        handle.remove()
