"""Toy streams for checking losses: free log-probabilities with gradients, no model in the way."""

from __future__ import annotations

import torch

from expunge.types import Streams, TokenView


def view(
    logp: torch.Tensor,
    lengths: list[int],
    ref: torch.Tensor | None = None,
    logits: torch.Tensor | None = None,
) -> TokenView:
    """A whole optimiser step in one micro-batch; `ref` is [batch] sums."""
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    found = TokenView(logp, rows, torch.tensor(lengths), len(lengths), sum(lengths))
    if ref is not None:
        found.ref_logp = ref
    if logits is not None:
        found.logits = logits
    return found


def sums(logp: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.stack([part.sum() for part in logp.split(lengths)])


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, of)
    return found


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def forget(found: TokenView) -> Streams:
    return Streams({"forget": found})
