"""Single tokens made likelier or less likely while a model writes, as the `logit_bias` of interfaces does.

    logit(v) + amount   for every token v of a text, at every place of the answer

A text's tokens are those it has as a word of its own and at the start of a text. Tokens that only stand for space are left out: they
belong to every word. A token of several texts is pushed once, by the amount that is farthest from 0. What cannot come at all
(-inf: a guard has taken it away) is not brought back by any amount.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PushedTokens:
    """For `generate`'s logits_processor."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        bias: Sequence[tuple[str, float]],
        end_ids: Collection[int],
    ):
        """`end_ids`: what the empty text stands for."""
        self.amounts: dict[int, float] = {}
        for text, amount in bias:
            for token in tokens_of(tokenizer, text) if text else end_ids:
                self.amounts[token] = max(amount, self.amounts.get(token, 0.0), key=abs)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """[lines, tokens], [lines, vocab] to the latter."""
        added = torch.zeros_like(scores[0])
        tokens = torch.tensor(list(self.amounts), dtype=torch.int64, device=scores.device)
        added[tokens] = torch.tensor(list(self.amounts.values())).to(scores)
        return scores + added


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str) -> set[int]:
    """Every token that a text may be written with, but for those of its beginning's space."""
    found = tokenizer([text, f" {text}"], add_special_tokens=False)["input_ids"]
    return {token for ids in found for token in ids if str(tokenizer.decode([token])).strip()}
