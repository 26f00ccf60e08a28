"""Logit-margin flattening, the forget side of PDU (Entesari et al., 2025, arXiv:2506.05314).

    L(θ) = mean over forget tokens of  ( max_v z_t(v) - mean_v z_t(v) )²

The distribution at each forget token is driven towards uniform, without a softmax in the way, so the push does not vanish
where the model is sure. It is zero exactly where all logits are equal.
Needs: nothing but the forget rows; published with the primal-dual retain term.
Differs from the paper: nothing; the mean is over answer tokens.
Differs from the authors' code: nothing known.
Fails when: used without a retain constraint: uniform answers to the forget prompts spread to all prompts.
"""

from typing import ClassVar

from torch import Tensor

from expunge.config import Settings
from expunge.types import Streams


class Flatten(Settings):
    needs: ClassVar = frozenset({"forget", "logits"})
    weighted: ClassVar = True

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        logits = streams.forget.logits
        return streams.forget.token_mean(weight * (logits.amax(-1) - logits.mean(-1)).square())
