"""TNPO, NPO's weight token by token (Wang et al., 2025, arXiv:2502.19301).

    w_t = sg( 2 p_t^β / (p_t^β + p_ref,t^β) )

The weight that NPO's link puts on a whole answer, on each token by itself: 1 at the starting model, 0 once a token has become
much less likely than it was. With gradient ascent its gradient is that of NPO taken per token.
Needs: from the frozen starting model, the log-probability of each forget token (cached).
Differs from the paper: nothing.
Differs from the authors' code: the reference is cached, no second model is loaded.
Fails when: some tokens of an answer stay known: only what has changed is weighed down, not what was common from the start.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class TNPO(Settings):
    needs: ClassVar = frozenset({"ref_tokens"})

    beta: float = Field(4.0, gt=0)
    """Inverse temperature, per nat of a token. The authors' code uses 4."""

    def __call__(self, view: TokenView) -> Tensor:
        return 2 * torch.sigmoid(self.beta * (view.logp.detach() - view.ref_token_logp))  # [answer]
