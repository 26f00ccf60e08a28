"""Relearning with the attacker's choice: several learning rates and lengths, the best on some people, read on the others.

    (rate, steps)* = argmax of recovered( people V );    read: right answers about people B under (rate, steps)*
    then V and B change places

A rate that suits one artifact breaks another, so a comparison at one rate favours whoever is broken by it. The choice is made on people
that do not count, or the best of many would look good by chance. `relearning` holds the single rate that results share.
Needs: the weights; forgotten rows of other people to train on, and two or more people to ask about.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: there are so few people that the choice is a matter of luck.
"""

from __future__ import annotations

import random
from itertools import product
from typing import ClassVar

from pydantic import Field

from expunge.attacks._attack import Found, Opened, OpeningAttack, Reading, Suite, Tier
from expunge.attacks._recall import rate, whose
from expunge.attacks._weights import ask_some
from expunge.attacks.relearning import Lesson, Relearning, halved, lessons_of
from expunge.errors import TrainingError


class RelearningSweep(OpeningAttack):
    id: ClassVar[str] = "W1b"
    tier: ClassVar[Tier] = "T3"
    suite: ClassVar[Suite] = "full"
    version: ClassVar[int] = 2

    learning_rates: tuple[float, ...] = Field((1e-4, 3e-4, 1e-3, 3e-3), min_length=1)
    """Models of billions of parameters want about a hundredth of these."""
    steps: tuple[int, ...] = Field((10, 50), min_length=1)
    """Lengths, each tried with each rate."""
    batch_size: int = Field(32, ge=1)
    """Rows a step; where fewer are known, all of them."""
    seed: int = 0
    """Of the order of the rows."""

    def read(self, opened: Opened) -> Reading:
        people = sorted({whose(case) for case in opened.cases})
        lessons = lessons_of("other people", opened) if opened.known else []
        if not lessons:
            return Reading(why="every forgotten row is asked about, so none is left to train on")
        if len(people) < 2:
            return Reading(
                why="all cases are about one person, so there is nobody to choose the learning rate on"
            )
        random.Random(opened.seed.child("halves").number).shuffle(people)
        first = set(halved(people)[0])
        sides = (
            [i for i, case in enumerate(opened.cases) if whose(case) in first],
            [i for i, case in enumerate(opened.cases) if whose(case) not in first],
        )
        tried = self._tried(opened, lessons[0])
        found: list[Found] = []
        notes: dict[str, float | None] = {}
        for number, (chosen_on, asked) in enumerate((sides, sides[::-1]), 1):
            shares = {name: _share(rows, chosen_on) for name, rows in tried.items()}
            best = max(shares, key=lambda name: shares[name])
            variant = f"rate {best[0]:g}, {best[1]} steps"
            found += [row._replace(variant=variant) for row in tried[best] if row.case in set(asked)]
            notes |= {f"half {number}: rate": best[0], f"half {number}: steps": float(best[1])}
        return Reading(found, notes, "" if found else "training broke at every learning rate")

    def _tried(self, opened: Opened, lesson: Lesson) -> dict[tuple[float, int], list[Found]]:
        """All cases after each training; those that exploded recall nothing and have no rows."""
        tried: dict[tuple[float, int], list[Found]] = {}
        for learning_rate, steps in product(self.learning_rates, self.steps):
            plan = Relearning(
                steps=steps, batch_size=self.batch_size, learning_rate=learning_rate, seed=self.seed
            )
            try:
                lm = plan.taught(opened, lesson, steps)
                tried[learning_rate, steps] = ask_some(lm, opened.cases, lesson.asked)
            except TrainingError:
                tried[learning_rate, steps] = []
        return tried


def _share(rows: list[Found], numbers: list[int]) -> float:
    wanted = set(numbers)
    return rate([row for row in rows if row.case in wanted]) or 0.0
