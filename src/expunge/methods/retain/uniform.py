"""Knowing nothing on the retain rows, what holds ULD's assistant down (Ji et al., 2024, arXiv:2406.08607).

    R(θ) = mean over retain tokens of  KL( uniform || p_θ ) = - log V - (1/V) Σ_v log p_θ(v)

Needs: retain rows; among them questions about the forget rows with wrong answers, so that it is the fact that is learned.
Differs from the paper: nothing.
Differs from the authors' code: the mean is over answer tokens, theirs over prompts and padding too; log-softmax in one step.
Fails when: used on a model that is to be served: it unlearns the retain set.
"""

import math
from typing import ClassVar

from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class Uniform(Settings):
    needs: ClassVar = frozenset({"retain", "logits"})

    def __call__(self, view: TokenView) -> Tensor:
        logp = view.logits.log_softmax(-1)  # [answer, vocab]
        return view.token_mean(-logp.mean(-1) - math.log(logp.shape[-1]))
