"""WTNPO, TNPO times a power of the probability (Wang et al., 2025, arXiv:2502.19301).

    w_t = sg( 2 p_t^(β+α) / (p_t^β + p_ref,t^β) )

TNPO lets a token go once it has fallen below where it started; the extra p^α lets go of tokens that were never likely.
Needs: from the frozen starting model, the log-probability of each forget token (cached).
Differs from the paper: nothing.
Differs from the authors' code: the reference is cached, no second model is loaded.
Fails when: α is large: as for WGA, almost no token is pushed once p is below 0.9.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class WTNPO(Settings):
    needs: ClassVar = frozenset({"ref_tokens"})

    beta: float = Field(4.0, gt=0)
    """Inverse temperature, per nat of a token. The authors' code uses 4."""
    alpha: float = Field(1.5, ge=0)
    """Exponent of the token's own probability; 0 is TNPO. The authors' code uses 1.5."""

    def __call__(self, view: TokenView) -> Tensor:
        logp = view.logp.detach()
        return 2 * (self.alpha * logp).exp() * torch.sigmoid(self.beta * (logp - view.ref_token_logp))
