"""FLAT, loss adjustment with only forget data (Wang et al., 2024, arXiv:2410.11143).

    L(θ) = mean over rows of  - g*(P_a) + f*( g*(P_f) ),      P = mean over an answer's tokens of p_θ(token)

P_a belongs to another answer (a refusal by default), P_f to the one to forget. The loss is minus a variational lower bound of
an f-divergence between the two, whose form sets how learning and forgetting are weighed:

    divergence    g*(v)                   f*(g*(v))
    kl            v                       exp(v - 1)
    tv            tanh(v) / 2             tanh(v) / 2
    js            log 2 - log(1 + e^-v)   -log(2 - 2 / (1 + e^-v))
    pearson       v                       v² / 4 + v

Needs: another answer per forget row; no retain rows, no reference.
Differs from the paper: nothing.
Differs from the authors' code: the mean is over answer tokens; theirs counts the masked positions as zeros, which turns every
divergence into the same straight line.
Fails when: the true tokens have little probability left: the push is linear in it and fades. Retain terms contradict its claim.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from expunge.config import Settings
from expunge.types import Streams, TokenView


class FLAT(Settings):
    needs: ClassVar = frozenset({"forget", "alternate"})
    weighted: ClassVar = False

    divergence: Literal["kl", "tv", "js", "pearson"] = "kl"
    """The f-divergence between the other answer and the one to forget."""

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        learn, forget = (_mean_probability(view) for view in (streams.alternate, streams.forget))
        return streams.forget.sequence_mean(self.conjugate(forget) - self.witness(learn))

    def witness(self, p: Tensor) -> Tensor:
        """g*, elementwise."""
        if self.divergence == "tv":
            return p.tanh() / 2
        if self.divergence == "js":
            return torch.log(torch.tensor(2.0, dtype=p.dtype)) + logsigmoid(p)
        return p

    def conjugate(self, p: Tensor) -> Tensor:
        """f*(g*), elementwise."""
        if self.divergence == "kl":
            return (p - 1).exp()
        if self.divergence == "tv":
            return p.tanh() / 2
        if self.divergence == "js":
            return -torch.log(2 - 2 * p.sigmoid())
        return p.square() / 4 + p


def _mean_probability(view: TokenView) -> Tensor:
    """[batch] mean probability of an answer's tokens."""
    return view.sequence_sum(view.logp.exp()) / view.length
