"""UNDIAL, self-distillation with adjusted logits (Dong et al., 2024, arXiv:2402.10052).

    q_t = softmax( z_ref,t - λ · e_y );     L(θ) = - mean over forget tokens of  Σ_v q_t(v) · log p_θ(v)

The model learns its own starting distribution with the true token's logit lowered: a fixed, normalised goal, so nothing runs
away. At λ = 0 nothing happens; as λ grows the goal becomes the starting distribution without the true token.
Needs: from the frozen starting model, the hidden state at each forget answer token (cached; the logits are one product away).
Differs from the paper: nothing; the mean is over answer tokens.
Differs from the authors' code: the teacher is the model itself, not a fixed small one; open-unlearning averages over prompt and
padding too and lowers an innocent token there.
Fails when: the second likeliest token gives the fact away as well (inflections, synonyms): it is what the model is taught.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from expunge.config import Settings
from expunge.types import Streams


class UNDIAL(Settings):
    needs: ClassVar = frozenset({"forget", "logits", "ref_logits"})
    weighted: ClassVar = True

    strength: float = Field(10.0, ge=0)
    """λ: how far the true token's logit is lowered. The authors try 3, 10 and 30."""

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        lowered = self.strength * one_hot(view.targets, view.logits.shape[-1])  # [answer, vocab]
        teacher = (view.ref_logits - lowered).softmax(-1)
        return view.token_mean(-weight * (teacher * view.logits.log_softmax(-1)).sum(-1))
