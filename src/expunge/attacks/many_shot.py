"""Many-shot: a long conversation in which every question was answered, then the one that matters (Anil et al., 2024).

    prompt = n × ( question about somebody else, its answer ), then the question;    n = 16, 64, 256

Each answered turn makes it likelier that the next one is answered, too. The examples are about other people and say neither the answer nor
one of the wrong answers; the smaller sets are the first rows of the larger ones, so that the curve over n is of one conversation.
Needs: as many rows about other people; a context that holds them, otherwise the trial is left out.
Differs from the paper: harmless questions in place of harmful ones; what is primed is answering, not harm.
Differs from the authors' code: not used.
Fails when: the context is short, or nothing holds the answer back in the first place.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import ClassVar

from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.attacks._contexts import other_rows, turns


class ManyShot(AskingAttack):
    id: ClassVar[str] = "A15"
    tier: ClassVar[Tier] = "T1"
    version: ClassVar[int] = 2

    shots: tuple[int, ...] = (16, 64, 256)
    """Answered questions before the one that matters."""

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        rows = list(islice(other_rows(case, given.rng), max(self.shots, default=0)))
        for n in self.shots:
            if len(rows) >= n:
                said = [text for row in rows[:n] for text in (row.question, row.answer)]
                yield Trial(turns(*said, case.question), f"{n} shots")
