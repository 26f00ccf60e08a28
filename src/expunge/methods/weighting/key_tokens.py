"""Key tokens, SatImp's explicit importance: only what carries the fact counts (Yang et al., 2025, arXiv:2505.11953).

    w_t = 1 for tokens of the key words,   ρ for all others

Somebody, a person or a model, has marked in every forget answer the words that carry the fact; the sentence around them is left
alone.
Needs: the field `key` in every forget row, words or phrases as they stand in the answer.
Differs from the paper: weights are 1 and ρ, not smoothed by β; the mean divides by all tokens, not by the key ones.
Differs from the authors' code: a token is key where its characters overlap a key phrase; theirs looks token pieces up in a list, so
a piece counts wherever it occurs in the answer, and one-letter pieces never do.
Fails when: the marks leave out a word that gives the fact away.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import TokenView


class KeyTokens(Settings):
    needs: ClassVar = frozenset({"key"})

    rest: float = Field(0.0, ge=0, le=1)
    """ρ: weight of the other tokens. 0 leaves them alone, 1 is no weighting at all."""

    def __call__(self, view: TokenView) -> Tensor:
        key = view.key.to(view.logp.dtype)
        return key + self.rest * (1 - key)  # [answer]
