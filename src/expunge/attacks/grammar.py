"""Restricted answer: the model may only say one of the listed sentences, as a grammar or a schema of an interface has it.

    candidates = the statement with the value, and with each wrong value in its place
    picked = argmax over candidates c of log p( c, end | question );      hit = the right one is picked

Whoever can restrict an answer to a list needs no answer in the model's own words: a refusal is not on the list. Of six sentences a model
that never knew picks the right one in one of six.
Needs: answers restricted to a list, or the likelihoods of given answers.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: a guard scores every answer alike: then nothing is picked. Long values lose against short ones that begin as likely.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks._attack import AskingAttack, Given, Kind, Tier, Trial
from expunge.attacks._case import Case
from expunge.data.facts import last_place
from expunge.types import Prompt


class Grammar(AskingAttack):
    id: ClassVar[str] = "A26"
    tier: ClassVar[Tier] = "T2"
    kind: ClassVar[Kind] = "choice"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        if not case.wrong:
            return
        first, end = last_place(case.value, case.statement)
        before, after = case.statement[:first], case.statement[end:]
        sentences = tuple(f"{before}{value}{after}" for value in (case.value, *case.wrong))
        yield Trial(Prompt.ask(case.question), read="choice", options=sentences)
