"""Redaction: the model answers, and what must not be said is blacked out of its answer. No paper.

    answer(x) = r(y),   y ~ p( · | x),      r: every forbidden phrase and target name replaced by a placeholder

Phrases are matched as words in canonical form, whatever their spelling, and cut out of the answer as it was written; what begins
in a prefilled start of the answer counts too. An answer that stays readable some other way (encoded, say) is replaced whole.
It works on text, so also over an endpoint. Scores: an answer that holds nothing forbidden is seen exactly where the model
writes it, so it keeps its log-probability, and one that does is never seen. What the latter had is with the texts that hold a
placeholder; nothing is renormalised. The score of an answer that holds the placeholder itself counts only the ways in which the
model writes it so.
Needs: a detector, the target names, forget pairs or texts; retain rows tell common words from telling ones.
Differs from the paper: no paper; data-loss filters in products do this.
Differs from the authors' code: no code.
Fails when: the fact is said in other words, or the gap itself tells it: who asks whether it was Paris or London sees which one
is blacked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.guards.phrases import Background, Phrases, never_said, phrases_of
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place


class Redact(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"subject"})

    names: bool = True
    """Whether target names are replaced too, beside the phrases of the forget answers."""
    placeholder: str = Field("[redacted]", min_length=1)
    """Stands in for what was there."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedRedact:
        """Raises DataError where there is nothing to look for, ConfigError for a placeholder that says it."""
        found = phrases_of(data.forget, Background.of(data.retain))
        phrases = Phrases([*found, *(data.names if self.names else ())])
        if not phrases:
            raise DataError(
                "redact replaces the forget answers' phrases and the target's names, and there are none.\n"
                "Give question-answer pairs or texts, or a 'subject' field."
            )
        if said := phrases.found(self.placeholder):
            raise ConfigError(
                f"action redact: the placeholder {self.placeholder!r} says what is forbidden: {sorted(said)}."
            )
        return FittedRedact(phrases, self.placeholder)


class FittedRedact:
    def __init__(self, phrases: Phrases, placeholder: str):
        self.phrases, self.placeholder = phrases, placeholder

    def score(
        self, model: LanguageModel, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        plain = model.score(examples)
        return [
            never_said(score)
            if flag and self.phrases.found(example.answer, example.prompt.prefill if example.prompt else "")
            else score
            for example, score, flag in zip(examples, plain, flagged, strict=True)
        ]

    def generate(
        self,
        model: LanguageModel,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        return [
            [self._redacted(answer, prompt) for answer in answers] if flag else answers
            for prompt, answers, flag in zip(prompts, model.generate(prompts, params), flagged, strict=True)
        ]

    def _redacted(self, answer: Generation, prompt: Prompt) -> Generation:
        return replace(answer, text=self.phrases.replace(answer.text, self.placeholder, prompt.prefill))

    def state(self) -> dict[str, Any]:
        phrases = sorted(" ".join(words) for words in self.phrases.phrases)
        return {"phrases": phrases, "placeholder": self.placeholder}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedRedact:
        return cls(Phrases(state["phrases"]), state["placeholder"])
