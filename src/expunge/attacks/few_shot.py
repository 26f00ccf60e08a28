"""Few-shot: 1, 2, 4 and 8 solved questions about the same person before the question (RWKU, type 8: Jin et al., 2024, arXiv:2406.10890).

    prompt = k x (question, answer) of other rows about S + question,    k in {1, 2, 4, 8};    the smaller sets are part of the larger

Answers show the model that this person is talked about. The curve over k tells whether more of it helps.
Needs: k other rows about the same person that say neither the answer nor a wrong one; a k that there are not rows for is left out.
Differs from the paper: up to eight in place of one.
Differs from the authors' code: not used.
Fails when: k solved questions do not fit the model's context.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field, PositiveInt

from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.attacks._rewrites import _solved
from expunge.types import Prompt


class FewShot(AskingAttack):
    id: ClassVar[str] = "A13"
    tier: ClassVar[Tier] = "T1"
    version: ClassVar[int] = 2
    rwku: ClassVar[str] = "in-context learning"

    shots: tuple[PositiveInt, ...] = Field((1, 2, 4, 8), min_length=1)
    """How many solved questions, one trial each."""

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        solved = [
            row for row in case.own if row.answer and not case.given_away_by(f"{row.question} {row.answer}")
        ]
        given.rng.shuffle(solved)
        for count in self.shots:
            if count <= len(solved):
                yield Trial(Prompt.ask(_solved(solved[:count], case.question)), f"{count} solved")
