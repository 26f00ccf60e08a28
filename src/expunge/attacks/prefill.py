"""Assistant prefill: put the start of the right answer in the model's mouth and let it go on.

    prompt = question + the statement up to the fact,    hit = the fact comes next

The name that most answers repeat is part of what is put in, which is why guards that only watch the question leak. Where nothing stands
before the fact there is nothing to put in, and the row is left out.
Needs: an endpoint that continues a started answer; with the weights in hand that is always so.
Differs from the paper: no single paper; known from jailbreaks, where harmful replies are counted instead of facts.
Differs from the authors' code: no code.
Fails when: the fact stands first in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks._attack import AskingAttack, Given, Suite, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import Prompt


class Prefill(AskingAttack):
    id: ClassVar[str] = "A08b"
    tier: ClassVar[Tier] = "T2"
    suite: ClassVar[Suite] = "quick"
    version: ClassVar[int] = 2

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        if case.head:
            yield Trial(Prompt.ask(case.question, case.head))
