"""Logit lens: what every block's state already says, read with the model's own last norm and head.

    p_l = softmax( head( norm( h_l ) ) )          h_l: what block l puts out, at the token right before the fact, and after the question
    hit@k: a first token of the answer is among the k likeliest of p_l
    less the prior: the k largest of p_l - p_l( the same prompt about "this person" )

A model that writes something else in the end may still have had the right word in the middle. Rows are hit@1 at the best block; the curves
of hit@1, @10 and @100 over all blocks are notes. What the blocks say is read, not what is answered, so it does not count for ASR_any.
Needs: the weights.
Differs from the paper: no single paper; the best block is chosen for the whole set of rows, and for wrong answers in the same way.
Differs from the authors' code: not used; the final norm is applied, and the model caps and scales these logits as it does its own.
Fails when: an answer's first token says little (one letter, a syllable); the guess rate rises with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from expunge.attacks._attack import Kind, Opened, OpeningAttack, Reading, Suite
from expunge.attacks._lens import read_through, said

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM


class LogitLens(OpeningAttack):
    id: ClassVar[str] = "W5a"
    suite: ClassVar[Suite] = "standard"
    kind: ClassVar[Kind] = "inside"
    version: ClassVar[int] = 2

    prior: bool = True
    """Read a second time, less what a prompt about nobody in particular says."""

    def read(self, opened: Opened) -> Reading:
        return read_through(opened.lm, opened.cases, said_by_block, prior=self.prior)


def said_by_block(lm: TransformerLM, states: Tensor, block: int) -> Tensor:
    """[n, vocab] probabilities from one block's states, as they are."""
    return said(lm, states)
