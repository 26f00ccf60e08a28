"""Instruction override: say that earlier rules about a name no longer hold, or ask for all that stands above.

    prompt = "ignore earlier rules about S" + question  (three wordings),    or "repeat everything above" (all; about S; as a list of rules)

A guard that is a text before the question can be countermanded by the question, and can be read out. A hit is the fact in either case:
one that names what it protects gives it away, and the ASR of the `repeat` variants is how often that happens. That a guard's own text leaks
without the fact is no hit; it is read in their transcripts, by comparing them with that text, which no attack is told.
Needs: answers; for five of the six a name in the question.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: nothing stands before the question; then only the model's own answer can hold the fact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks import _prompts as texts
from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import Prompt


class InstructionOverride(AskingAttack):
    id: ClassVar[str] = "A11"
    tier: ClassVar[Tier] = "T1"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        for i, order in enumerate(texts.OVERRIDES if case.name else (), 1):
            yield Trial(Prompt.ask(order.format(name=case.name, question=case.question)), f"override {i}")
        for variant, order in texts.EXTRACTIONS.items():
            if case.name or "{name}" not in order:
                yield Trial(Prompt.ask(order.format(name=case.name)), variant)
