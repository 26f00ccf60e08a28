"""Staying close to the starting model on retain rows, called KLR (Maini et al., 2024, arXiv:2401.06121).

    R(θ) = mean over retain tokens of  Σ_v p_ref(v) · ( log p_ref(v) - log p_θ(v) )

Needs: retain rows and, from the frozen starting model, the hidden state at each of their answer tokens (cached; the reference
distribution is one matrix product away, exactly).
Differs from the paper: the mean is over answer tokens. Differs from the authors' code: theirs (and open-unlearning's) divides
by prompt and padding positions too, which dilutes the term by the share of padding; MUSE's passes raw logits.
Fails when: the starting model is to be improved on the retain rows; it only holds, it does not teach.
"""

from typing import ClassVar

from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class KL(Settings):
    needs: ClassVar = frozenset({"retain", "logits", "ref_logits"})

    def __call__(self, view: TokenView) -> Tensor:
        reference = view.ref_logits.log_softmax(-1)  # [answer, vocab]
        return view.token_mean((reference.exp() * (reference - view.logits.log_softmax(-1))).sum(-1))
