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

from expunge.config import Settings
from expunge.guards.fixed import fixed, said
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place


class Refuse(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset()

    text: str = "I do not know."
    """The fixed answer."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedRefuse:
        return FittedRefuse(self.text)


class FittedRefuse:
    def __init__(self, text: str):
        self.text = text

    def score(
        self, model: LanguageModel, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        """The fixed text has probability 1, everything else none (marked as floored)."""
        plain = model.score(examples)
        return [
            fixed(example, score, self.text) if flag else score
            for example, score, flag in zip(examples, plain, flagged, strict=True)
        ]

    def generate(
        self,
        model: LanguageModel,
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
        refusal = said(model, self.text)
        return [[refusal] * params.copies if flag else next(passed) for flag in flagged]

    def state(self) -> dict[str, Any]:
        return {"text": self.text}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedRefuse:
        return cls(state["text"])
