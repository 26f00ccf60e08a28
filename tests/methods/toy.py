"""Toy streams for checking losses: free log-probabilities with gradients, no model in the way."""

from __future__ import annotations

import torch

from expunge.types import Streams, TokenView


def view(
    logp: torch.Tensor,
    lengths: list[int],
    ref: torch.Tensor | None = None,
    logits: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
) -> TokenView:
    """A whole optimiser step in one micro-batch; `ref` is [batch] sums."""
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    targets = torch.zeros(len(logp), dtype=torch.int64) if targets is None else targets
    found = TokenView(logp, targets, rows, torch.tensor(lengths), len(lengths), sum(lengths))
    if ref is not None:
        found.ref_logp = ref
    if logits is not None:
        found.logits = logits
    return found


def from_logits(logits: torch.Tensor, targets: torch.Tensor, lengths: list[int]) -> TokenView:
    """A view whose log-probabilities come from [answer, vocab] logits."""
    logp = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return view(logp, lengths, logits=logits, targets=targets)


def sums(logp: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.stack([part.sum() for part in logp.split(lengths)])


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, of)
    return found


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def forget(found: TokenView) -> Streams:
    return Streams({"forget": found})
