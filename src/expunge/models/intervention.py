"""What a guard may do to a model while it answers: one rule for scoring and for generating, on the flagged rows of a batch.

An intervention is handed to `TransformerLM.score` and `generate`. Rows that are not flagged must leave it bit for bit as the
plain model gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from expunge.data.batching import Batch
from expunge.data.tokenize import Encoded
from expunge.models.logprobs import head_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.models.tree import Tree


class Asked(NamedTuple):
    """One row of a batch: what was asked, in tokens and as the text that detectors read."""

    encoded: Encoded
    text: str
    flagged: bool


class Answer(NamedTuple):
    """One given answer within a teacher-forced batch."""

    row: int
    at: np.ndarray  # [answer] rows of the logits that predict its tokens
    targets: np.ndarray  # [answer] its token ids, the end token included


@dataclass(frozen=True)
class Forward:
    """One teacher-forced batch of prefix trees, before it is run."""

    model: PreTrainedModel
    ids: Tensor  # [batch, nodes]
    attention: Tensor  # [batch, 1, nodes, nodes] additive, or [batch, nodes] of 0 and 1
    positions: Tensor  # [batch, nodes]
    enters: Tensor  # [batch, nodes] int64: what `Intervention.enters` said
    predicts: Tensor  # [batch, nodes] bool: nodes whose next token is asked for
    trees: Sequence[Tree]
    asked: Sequence[Asked]
    """[batch] what each row's tree grew from; all answers of a row share its prompt and flag."""
    answers: Sequence[Answer]

    def run(self, model: PreTrainedModel | None = None, embeddings: Tensor | None = None) -> Tensor:
        """[predicted, vocab] logits, in the order of `predicts`; of another model or from other input embeddings
        [batch, nodes, hidden] where they are given.
        """
        model = model or self.model
        inputs: dict[str, Any] = (
            {"input_ids": self.ids} if embeddings is None else {"inputs_embeds": embeddings}
        )
        with head_rows(model, self.predicts):
            return model(
                **inputs, attention_mask=self.attention, position_ids=self.positions, use_cache=False
            ).logits

    def flagged_answers(self) -> Iterator[Answer]:
        return (answer for answer in self.answers if self.asked[answer.row].flagged)


class Intervention(Protocol):
    """See the module. Both ways of running a model give the same distribution."""

    def enters(self, encoded: Encoded) -> np.ndarray | None:
        """[tokens] int64 for a flagged prompt and the answer after it: the token whose embedding enters the model changed at each
        position, -1 where the own one enters as it is. None: all do.
        """
        ...

    def logits(self, forward: Forward) -> Tensor:
        """[predicted, vocab] logits of a batch with at least one flagged row. -inf for a token that cannot come."""
        ...

    def writing(
        self, model: PreTrainedModel, batch: Batch, asked: Sequence[Asked]
    ) -> AbstractContextManager[tuple[Any, dict[str, Any]]]:
        """The model whose `generate` is to be called on the left-padded `batch`, and more arguments for it, while the context
        lasts. The beams and copies of one prompt lie side by side, prompt after prompt.
        """
        ...


class PlainTokens:
    """The part of an intervention that changes no token on its way in."""

    def enters(self, encoded: Encoded) -> np.ndarray | None:
        return None
