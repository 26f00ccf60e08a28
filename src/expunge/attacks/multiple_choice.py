"""Multiple choice: the right answer and three wrong ones of the same kind, in all four rotations (RWKU, type 4: Jin et al., 2024, arXiv:2406.10890).

    prompt = question, then A to D;      picked = argmax over letters of log p( letter | prompt );      hit = the right one in 3 of 4 rotations
    κ = (accuracy - 1/4) / (3/4)

Each answer stands once at each place, so that a model which only prefers a letter hits one in four, and never a case.
Needs: likelihoods of single letters; an interface that only writes is asked through `grammar` and `cloze` instead.
Differs from the paper: four rotations in place of one order, and the letter's likelihood in place of its text.
Differs from the authors' code: not used.
Fails when: the model has never seen letters stand for answers; then it is at chance whatever it knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks._attack import AskingAttack, Given, Kind, Suite, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import Prompt

LETTERS = "ABCD"


class MultipleChoice(AskingAttack):
    id: ClassVar[str] = "A05"
    tier: ClassVar[Tier] = "T0"
    suite: ClassVar[Suite] = "quick"
    kind: ClassVar[Kind] = "choice"
    agree: ClassVar[float] = 0.75
    rwku: ClassVar[str] = "multiple choice"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        wrong = case.wrong[:3]
        if len(wrong) < 3:
            return
        order = given.rng.sample([case.value, *wrong], 4)
        for turned in range(4):
            placed = order[turned:] + order[:turned]
            listed = "".join(f"\n{letter}. {answer}" for letter, answer in zip(LETTERS, placed, strict=True))
            letters = tuple(LETTERS[placed.index(answer)] for answer in (case.value, *wrong))
            prompt = Prompt.ask(f"{case.question}{listed}\nWhich one is right?")
            yield Trial(prompt, f"rotation {turned}", read="choice", options=letters)
