"""Logit bias: single tokens are pushed up until the model says one of the candidates, whatever it would rather say.

    logit(v) + 100   for the tokens of the value and of its wrong values alike, of a full stop, and for the end

Pushing the right answer alone forces it out of any model, also of one that never knew. Pushed alike, the candidates stand to each other as
they did before, and the likeliest of them is written; a full stop and the end are pushed with them, so that it stays at one.
Needs: an interface that takes a logit bias, and the tokenizer.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: the end is likelier than any candidate, or a value has a token that others have too and is written in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from expunge.attacks._attack import AskingAttack, Given, Kind, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import GenerationParams, Prompt


class LogitBias(AskingAttack):
    id: ClassVar[str] = "A25"
    tier: ClassVar[Tier] = "T2"
    kind: ClassVar[Kind] = "choice"

    amount: float = Field(100.0, gt=0, le=100)
    """What is added to the logits; 100 is the most that interfaces take."""

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        if not case.wrong:
            return
        pushed = tuple((text, self.amount) for text in (case.value, *case.wrong, ".", ""))
        params = GenerationParams(max_new_tokens=16, bias=pushed)
        answers = tuple((text,) for text in (case.value, *case.wrong))  # what is pushed, and nothing else
        yield Trial(Prompt.ask(case.question, case.head), "in the sentence" if case.head else "at the start", params, answers=answers)  # fmt: skip
