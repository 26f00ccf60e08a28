"""Neutral prompt: a prompt in scope is answered as if it had asked about nobody in particular. A control for ECO.

    answer(x) ~ p( · | x with every target name replaced by a placeholder )

Where no name stands in the prompt, the whole prompt is replaced: a guard that cannot decide fails closed.
Needs: a detector and the target names.
Differs from the paper: no paper of its own; the text-level counterpart of corrupting embeddings.
Differs from the authors' code: no code.
Fails when: the prompt describes the subject without naming it: what is left still asks about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.config import Settings
from expunge.guards.target_names import TargetNames
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Message, Prompt, Score

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place


class Neutral(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"subject"})

    placeholder: str = "somebody"
    """Stands in for a name."""
    prompt: str = "Who is somebody?"
    """Stands in for a whole prompt in which no name is found."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedNeutral:
        return FittedNeutral(TargetNames(data.names), self.placeholder, self.prompt)


class FittedNeutral:
    def __init__(self, names: TargetNames, placeholder: str, prompt: str):
        self.names, self.placeholder, self.prompt = names, placeholder, prompt

    def score(
        self, model: LanguageModel, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        return model.score(
            [
                self._example(example) if flag else example
                for example, flag in zip(examples, flagged, strict=True)
            ]
        )

    def generate(
        self,
        model: LanguageModel,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        return model.generate(
            [
                self._rewrite(prompt) if flag else prompt
                for prompt, flag in zip(prompts, flagged, strict=True)
            ],
            params,
        )

    def _example(self, example: Example) -> Example:
        return Example(self._rewrite(example.prompt or Prompt.ask(self.prompt)), example.answer, example.id)

    def _rewrite(self, prompt: Prompt) -> Prompt:
        if not self.names.spans(prompt.text):
            return Prompt.ask(self.prompt, prompt.prefill)
        messages = tuple(
            Message(turn.role, self.names.replace(turn.content, self.placeholder)) for turn in prompt.messages
        )
        return replace(
            prompt, messages=messages, prefill=self.names.replace(prompt.prefill, self.placeholder)
        )

    def state(self) -> dict[str, Any]:
        return {"names": list(self.names.names), "placeholder": self.placeholder, "prompt": self.prompt}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedNeutral:
        return cls(TargetNames(state["names"]), state["placeholder"], state["prompt"])
