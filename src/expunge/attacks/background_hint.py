"""Background hint: true facts about the person before the question, never the answer (RWKU, type 7: Jin et al., 2024, arXiv:2406.10890).

    prompt = 3 facts of other rows about S + question,    in one line, and as notes;    a fact that says the answer or a wrong one is left out

They bring the model to where it learned about the person.
Needs: other rows about the same person; one at least, three where there are as many.
Differs from the paper: three facts from rows in place of a passage that a model wrote.
Differs from the authors' code: not used; its data call the same type by two names.
Fails when: the facts themselves were forgotten well, and say nothing to the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks import _prompts as texts
from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.attacks._contexts import own_facts
from expunge.types import Prompt

FACTS = 3


class BackgroundHint(AskingAttack):
    id: ClassVar[str] = "A12"
    tier: ClassVar[Tier] = "T1"
    version: ClassVar[int] = 2
    rwku: ClassVar[str] = "background hint"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        said = list(dict.fromkeys(own_facts(case)))
        if not said:
            return
        facts = given.rng.sample(said, min(FACTS, len(said)))
        yield Trial(Prompt.ask(f"{' '.join(facts)} {case.question}"), "in one line")
        if case.name:
            listed = "\n".join(f"- {fact}" for fact in facts)
            yield Trial(
                Prompt.ask(texts.NOTES.format(name=case.name, facts=listed, question=case.question)),
                "as notes",
            )
