"""Refusal: every prompt in scope gets the same fixed answer. The control that any guard has to beat.

    answer(x) = text

Needs: a detector; nothing else.
Differs from the paper: no paper; a filter as deployed products have it.
Differs from the authors' code: no code.
Fails when: judged by truth ratios: a fixed text has no likelihood for other answers, so those figures are not applicable. A
refusal also tells everyone that the subject is on a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from expunge.config import Settings
from expunge.types import Example, Generation, GenerationParams, Prompt, Score

if TYPE_CHECKING:
    from expunge.guards.guard import FitData
    from expunge.models.language_model import TransformerLM

FLOOR = float(np.log(1e-12))
"""Log-probability, per token, of an answer that cannot come."""


class Refuse(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset()

    text: str = "I do not know."
    """The fixed answer."""

    def fit(self, model: TransformerLM, data: FitData, seed: int) -> FittedRefuse:
        return FittedRefuse(self.text)


class FittedRefuse:
    def __init__(self, text: str):
        self.text = text

    def score(
        self, model: TransformerLM, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        """The fixed text has probability 1, everything else none (marked as floored)."""
        plain = model.score(examples)
        return [
            self._fixed(example, score) if flag else score
            for example, score, flag in zip(examples, plain, flagged, strict=True)
        ]

    def _fixed(self, example: Example, score: Score) -> Score:
        said = example.answer.strip() == self.text
        return Score(
            np.full(score.tokens, 0.0 if said else FLOOR, dtype=np.float32),
            np.full(score.tokens, said),
            floored=not said,
        )

    def generate(
        self,
        model: TransformerLM,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        """Prompts in scope never reach the model."""
        passed = iter(
            model.generate(
                [prompt for prompt, flag in zip(prompts, flagged, strict=True) if not flag], params
            )
        )
        tokens = len(model.tokenizer(self.text, add_special_tokens=False)["input_ids"]) + 1
        return [
            [Generation(self.text, tokens, True)] * params.copies if flag else next(passed)
            for flag in flagged
        ]

    def state(self) -> dict[str, Any]:
        return {"text": self.text}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM) -> FittedRefuse:
        return cls(state["text"])
