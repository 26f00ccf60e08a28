"""Log-probabilities of answer tokens: one forward, and only the rows that predict an answer token meet the vocabulary."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from expunge.data.batching import Batch
from expunge.metrics.min_k import LEAST_VARIANCE

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


def read_logits(logits: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each answer token, from [positions, vocab] logits and the position that predicts it, each [answer]: log p, nats; whether it is the
    likeliest token; (log p - μ) / σ with mean and spread of log p over the vocabulary, 0 where there is no spread; and how many
    tokens are likelier.
    """
    at_once = (
        2**17 if logits.device.type == "cpu" else 2**26
    )  # numbers read together: what a CPU's cache holds
    size = max(1, at_once // logits.shape[-1])
    given = logits[rows, targets].float()
    counted = given.new_zeros(len(logits))  # [positions] the logit of one of the tokens that are given there
    counted[rows] = given
    parts = [
        _of_vocabulary(part.float(), known)
        for part, known in zip(logits.split(size), counted.split(size), strict=True)
    ]
    best, normaliser, mean, variance, ranks = (torch.cat(part)[rows] for part in zip(*parts, strict=True))
    for some in (counted[rows] != given).nonzero()[:, 0].split(size):  # where answers part
        ranks[some] = _likelier(logits[rows[some]].float(), given[some])
    logp = given - normaliser
    z = (logp - mean) / variance.sqrt()
    return logp, best == targets, torch.where(variance < LEAST_VARIANCE, 0.0, z), ranks


def _of_vocabulary(logits: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Likeliest token, log of the normaliser, mean and variance of log p, and how many tokens are above a logit that is `given` for each
    position; all [positions], from [positions, vocab] logits.
    """
    top, best = logits.max(-1)
    logp = logits.log_softmax(-1)
    normaliser = top - logp.gather(-1, best[:, None]).squeeze(-1)
    p = logp.exp()
    logp.clamp_(min=-1e4)  # a token that cannot come counts for nothing: 0 times a number
    product = p * logp
    mean = product.sum(-1)
    variance = p.mul_(logp.sub_(mean[:, None]).square_()).sum(-1)
    return best, normaliser, mean, variance, _likelier(logits, given, product)


def _likelier(logits: Tensor, given: Tensor, room: Tensor | None = None) -> Tensor:
    """[rows] how many logits of a row [vocab] are not at most the given one; all of them where that is no number. Counted in `room`."""
    room = torch.empty_like(logits) if room is None else room
    return logits.shape[-1] - torch.le(logits, given[:, None], out=room).sum(-1).long()
