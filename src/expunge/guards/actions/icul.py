"""ICUL, in-context unlearning: examples with wrong answers stand before the question (Pawelczyk et al., 2023, arXiv:2310.07579).

    answer(x) ~ p( · | (f_1, wrong) … (f_K, wrong), (r_1, right) … (r_L, right), x )      for prompts in scope

f are forget questions, r retain questions; the query's own row is never among them. The draw is seeded and the same for all
prompts, so a server can keep its prefix. Look at `control` beside it: the paper's own ablation puts random retain rows, wrongly
answered too, where the forget rows stood, and if that does as well, then any noise does and nothing was unlearned in particular.
Needs: a detector, and question-answer pairs in both sets. Wrong answers are the rows' own, or borrowed from other rows.
Differs from the paper: generated answers instead of sentiment labels, so "flipped" means one of many wrong answers; K forget rows
that are not the query's own, where the paper shows the query itself flipped; turns of a conversation where the model has them.
Differs from the authors' code: no shadow models; the right examples are drawn once, not once a query.
Fails when: asked to repeat the text above: forget questions stand in the context for all to see. Where the context is short,
fewer examples are shown, the longer kind first to go, and a warning says so; a prompt beside which not one forget example fits is
refused with a DataError. An endpoint's context is not known here: it refuses by itself. Prefills walk past it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.config import Settings
from expunge.errors import DataError
from expunge.guards.prompting import room
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Message, Prompt, Score, Seed

if TYPE_CHECKING:
    from expunge.data.dataset import Record
    from expunge.guards.guard import FitData, Place

Pair = tuple[str, str]
"""Question and answer."""


class ICUL(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"forget", "retain"})

    forget_examples: int = Field(5, ge=1)
    """K, forget questions with a wrong answer."""
    retain_examples: int = Field(4, ge=0)
    """L, retain questions with the right answer."""
    control: bool = False
    """Put random retain questions, wrongly answered too, in the place of the forget questions."""
    answer_tokens: int = Field(64, ge=1)
    """Tokens of the model's context that examples leave free for the answer."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedICUL:
        """Draw the examples. Raises DataError where there are too few pairs."""
        from expunge.data.writers import Borrow

        rng = np.random.default_rng(Seed(data.seed).child("icul").number)
        forget, retain = (_shuffled(rows, rng) for rows in (data.forget, data.retain))
        known, rest = retain[: self.retain_examples + 1], retain[self.retain_examples + 1 :]
        self._refuse_too_few("retain", self.retain_examples, retain)
        if self.control:
            self._refuse_too_few("forget", self.forget_examples, rest, "retain rows left for control")
        else:
            self._refuse_too_few("forget", self.forget_examples, forget)
        writer = Borrow([*data.forget, *data.retain])
        wrong = [
            (row.question, str(rng.choice(row.perturbed_answer)))
            if row.perturbed_answer
            else (row.question, writer.alternatives([row], 1)[0][0])
            for row in (rest if self.control else forget)[: self.forget_examples + 1]
        ]
        return FittedICUL(self, wrong, [(row.question, row.answer) for row in known])

    @staticmethod
    def _refuse_too_few(part: str, count: int, rows: Sequence[Record], what: str = "") -> None:
        """One row more than is shown is needed, for the query's own is left out."""
        if count and len(rows) <= count:
            fewer = len(rows) - 1
            raise DataError(
                f"icul shows {count} {part} examples beside the query's own row, and there are {len(rows)} {what or f'{part} rows with a question of their own'}.\n"
                + (
                    f"Give more pairs, or show fewer: --set action.{part}_examples={fewer}"
                    if fewer > 0
                    else "Give at least two question-answer pairs."
                )
            )


def _shuffled(rows: Sequence[Record], rng: np.random.Generator) -> list[Record]:
    """One row a question, in a seeded order."""
    pairs = list({_plain(row.question): row for row in rows if row.shape == "pair"}.values())
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


class FittedICUL:
    """`wrong` and `right` hold one example more than is shown, for when one of them is the query itself."""

    def __init__(self, settings: ICUL, wrong: Sequence[Pair], right: Sequence[Pair]):
        self.settings, self.wrong, self.right = settings, wrong, right

    def score(
        self, model: LanguageModel, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        """Of a raw text: after the examples alone."""
        asked = [example.prompt or Prompt(()) for example in examples]
        shown = self._in_context(model, asked, flagged)
        return model.score(
            [
                replace(example, prompt=prompt) if flag else example
                for example, prompt, flag in zip(examples, shown, flagged, strict=True)
            ]
        )

    def generate(
        self,
        model: LanguageModel,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        return model.generate(self._in_context(model, prompts, flagged), params)

    def _in_context(
        self, model: LanguageModel, prompts: Sequence[Prompt], flagged: Sequence[bool]
    ) -> list[Prompt]:
        found = {
            prompt: self._fitting(model, prompt)
            for prompt in dict.fromkeys(p for p, flag in zip(prompts, flagged, strict=True) if flag)
        }
        return [found[prompt] if flag else prompt for prompt, flag in zip(prompts, flagged, strict=True)]

    def _fitting(self, model: LanguageModel, prompt: Prompt) -> Prompt:
        """The prompt behind as many examples as fit. Raises DataError when that is none of the forget examples."""
        own = {_plain(turn.content) for turn in prompt.messages}
        wrong, right = (
            [pair for pair in pairs if _plain(pair[0]) not in own][:count]
            for pairs, count in (
                (self.wrong, self.settings.forget_examples),
                (self.right, self.settings.retain_examples),
            )
        )
        wanted = len(wrong) + len(right)
        while wrong:
            shown = _behind([*wrong, *right], prompt)
            left = room(model, shown)
            if left is None or left >= self.settings.answer_tokens:
                if len(wrong) + len(right) < wanted:
                    warnings.warn(
                        f"icul: the model's context is short, so some prompts see fewer than {wanted} examples.",
                        stacklevel=2,
                    )
                return shown
            (right if len(right) >= len(wrong) else wrong).pop()
        raise DataError(
            f"icul: beside the prompt {prompt.text[:40]!r} not one example fits the model's context with {self.settings.answer_tokens} tokens left for the answer.\n"
            "Shorten the prompt, keep less free (--set action.answer_tokens=...), or take a guard that adds little, such as guard_prompt or refuse."
        )

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "wrong": self.wrong,
            "right": self.right,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedICUL:
        wrong, right = ([(q, a) for q, a in state[part]] for part in ("wrong", "right"))
        return cls(ICUL.parse(state["settings"], "guard"), wrong, right)


def _behind(pairs: Sequence[Pair], prompt: Prompt) -> Prompt:
    """The examples as turns before the conversation, after its system message."""
    turns = [
        turn
        for question, answer in pairs
        for turn in (Message("user", question), Message("assistant", answer))
    ]
    head = 1 if prompt.messages and prompt.messages[0].role == "system" else 0
    return replace(prompt, messages=(*prompt.messages[:head], *turns, *prompt.messages[head:]))
