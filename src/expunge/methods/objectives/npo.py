"""Negative Preference Optimization (Zhang et al., 2024, arXiv:2404.05868).

    L(θ) = -(2/β) · mean over forget rows of  log σ( -β · ( log π_θ(y|x) - log π_ref(y|x) ) )

A row whose answer has already become unlikely is pushed less: the weight on its gradient is 2 p^β / (p^β + p_ref^β), which
is 1 at the start and falls to 0. As β -> 0 this is gradient ascent on the summed log-probability.
Needs: one number per forget row from the frozen starting model (cached before training; no second model in memory).
Differs from the paper: nothing.
Differs from the authors' code: nothing for TOFU. MUSE's and WAGLE's variants (whole-vocabulary logits; the batch mean inside
the link) are other losses under the same name and are not used.
Fails when: answers are long: β acts on the sum, so a value tuned on 60 tokens acts thirty times as strongly on 2,000.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from expunge.config import Settings
from expunge.types import Streams


class NPO(Settings):
    needs: ClassVar = frozenset({"forget", "ref_logp"})
    weighted: ClassVar = False

    beta: float = Field(0.1, gt=0)
    """Inverse temperature, per nat of the whole answer. Large: stops early; towards 0: gradient ascent. The paper's is 0.1."""

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        gain = view.sequence_sum(view.logp) - view.ref_logp  # [batch] nats, < 0 once forgetting starts
        return view.sequence_mean(2 / self.beta * softplus(self.beta * gain))
