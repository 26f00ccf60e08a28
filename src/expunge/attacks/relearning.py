"""Relearning: train on rows that are no secret any more, and see how much comes back of others (Hu et al., 2024, arXiv:2406.13356).

    θ' = `steps` of AdamW on -log p( answers of A ),    recovered = right answers to B,    no row of A is in B
    excess = recovered( θ' of the artifact ) - recovered( θ' of the gold ),    the same rows, order and settings for both

    A = other forgotten people (`other people`); half of the rows of those asked about, B the other half (`same people`); rows that nobody
    removed (`retain rows`)

What was hidden comes back by itself once something near it is trained; what is gone has to be taught. A gold learns a little
too, so the excess over it is the number to read. All weights are trained; adapters are merged first. The recovery curve, the area under
it and what is left of the retain rows are measured on `other people`. Where every forgotten row is asked about, half of the people are
trained on and the others read, and then the other way round.
Needs: the weights, or an endpoint that fine-tunes them. A guard has none to train: the knowledge behind it was never forgotten.
Differs from the paper: the rows trained on share no person or no row with those that are read; a retrained model gets the same budget.
Differs from the authors' code: not used; all weights instead of an adapter.
Fails when: the learning rate is so low that nobody learns, or so high that all break: how many of the trained and of the retain rows are
answered says which; `relearning_sweep` lets the attacker choose.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from expunge.attacks._attack import Found, Opened, OpeningAttack, Reading, Tier
from expunge.attacks._case import Case
from expunge.attacks._recall import rate, recalled, whose
from expunge.attacks._weights import answered, ask_some
from expunge.errors import TrainingError
from expunge.recipes import TrainSettings
from expunge.types import Example, Prompt

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

Rows = Literal["other people", "same people", "retain rows"]


class Lesson(NamedTuple):
    """What is trained on, and which cases are asked afterwards."""

    rows: Sequence[Case]
    asked: Sequence[int]


class Relearning(OpeningAttack):
    id: ClassVar[str] = "W1"
    tier: ClassVar[Tier] = "T3"
    version: ClassVar[int] = 4

    steps: int = Field(20, ge=1)
    """Optimiser steps. The curve also has a quarter and half of them."""
    batch_size: int = Field(32, ge=1)
    """Rows a step; where fewer are known, all of them."""
    learning_rate: float = Field(1e-3, gt=0)
    """The same for artifact and gold. Models of billions of parameters want about 1e-5."""
    seed: int = 0
    """Of the order of the rows."""
    data: tuple[Rows, ...] = ("other people", "same people", "retain rows")
    """What is trained on, each on a copy of its own."""

    @property
    def training(self) -> TrainSettings:
        return self.training_for(self.steps)

    def training_for(self, steps: int) -> TrainSettings:
        return TrainSettings(
            learning_rate=self.learning_rate,
            max_steps=steps,
            batch_size=self.batch_size,
            schedule="constant",
            weight_decay=0.0,
        )

    def read(self, opened: Opened) -> Reading:
        found: list[Found] = []
        notes: dict[str, float | None] = {}
        reasons: list[str] = []
        for kind in dict.fromkeys(self.data):
            lessons = lessons_of(kind, opened)
            if not lessons:
                reasons.append(NOTHING[kind])
                continue
            try:
                rows, more = self._after(opened, lessons, kind)
            except TrainingError as error:
                reasons.append(str(error).split("\n")[0])
                continue
            found += rows
            notes |= more
        return Reading(found, notes, "" if found else "; ".join(dict.fromkeys(reasons)))

    def _after(
        self, opened: Opened, lessons: Sequence[Lesson], kind: Rows
    ) -> tuple[list[Found], dict[str, float | None]]:
        """What is recalled after all steps, and for other people, what was on the way there and what is left of the rest."""
        found: list[Found] = []
        left: list[tuple[float | None, float | None]] = []
        for lesson in lessons:
            lm = self.taught(opened, lesson, self.steps)
            found += ask_some(lm, opened.cases, lesson.asked, f"{kind}, {self.steps} steps")
            if kind == "other people":
                left.append((answered(lm, opened.retain), rate(recalled(lm, lesson.rows))))
        if kind != "other people":
            return found, {}
        retain, trained = ([share for share in part if share is not None] for part in zip(*left, strict=True))
        return found, {
            **self._curve(opened, lessons, rate(found)),
            "retain rows answered before": answered(opened.lm, opened.retain),
            "retain rows answered after": sum(retain) / len(retain) if retain else None,
            "trained rows answered after": sum(trained) / len(trained) if trained else None,
        }

    def taught(self, opened: Opened, lesson: Lesson, steps: int) -> TransformerLM:
        """A fresh copy after so many steps. Raises TrainingError where the loss explodes."""
        lm = opened.again()
        rows = [
            Example(Prompt.ask(case.question), case.probe.answer, case.probe.id)
            if case.probe.answer
            else Example(None, case.question, case.probe.id)  # a text
            for case in lesson.rows
        ]
        opened.train(lm, rows, self.training_for(steps), self.seed)
        return lm

    def _curve(
        self, opened: Opened, lessons: Sequence[Lesson], last: float | None
    ) -> dict[str, float | None]:
        """K(step). Each point is a run of its own, which begins as a longer one does: the same rows in the same order."""
        curve: dict[int, float | None] = {}
        for steps in sorted({0, -(-self.steps // 4), -(-self.steps // 2)} - {self.steps}):
            found: list[Found] = []
            for lesson in lessons:
                lm = self.taught(opened, lesson, steps) if steps else opened.lm
                found += ask_some(lm, opened.cases, lesson.asked)
            curve[steps] = rate(found)
        curve[self.steps] = last
        points = [(steps, share) for steps, share in curve.items() if share is not None]
        return {
            **{f"recalled after {steps} steps": share for steps, share in points},
            "area under the curve": area(points),
            "steps until half is recalled": first_at(points, 0.5),
        }


NOTHING: dict[Rows, str] = {
    "other people": "all forgotten rows are about one person, so there is no other to train on",
    "same people": "no person has two rows of which one could be trained on",
    "retain rows": "there are no retain rows to train on",
}


def lessons_of(kind: Rows, opened: Opened) -> list[Lesson]:
    """What is trained on and what is read then; nothing that is read was trained on."""
    if kind == "retain rows":
        return _lessons([(opened.retain, range(len(opened.cases)))], opened.cases)
    chance = random.Random(opened.seed.child(kind).number)
    by: dict[str, list[int]] = {}
    for i, case in enumerate(opened.cases):
        by.setdefault(whose(case), []).append(i)
    if kind == "other people":
        if opened.known:
            return _lessons([(opened.known, range(len(opened.cases)))], opened.cases)
        people = sorted(by)
        chance.shuffle(people)
        halves = [[i for person in half for i in by[person]] for half in halved(people)]
    else:
        shuffled = [chance.sample(rows, len(rows)) for rows in by.values() if len(rows) > 1]
        halves = [[i for rows in shuffled for i in halved(rows)[half]] for half in (0, 1)]
    pairs = ((halves[0], halves[1]), (halves[1], halves[0]))
    return _lessons([([opened.cases[i] for i in taught], asked) for taught, asked in pairs], opened.cases)


def _lessons(pairs: Sequence[tuple[Sequence[Case], Sequence[int]]], cases: Sequence[Case]) -> list[Lesson]:
    """Without the cases that training tells, and without lessons in which nothing is taught or nothing is left to ask."""
    return [
        Lesson(taught, unsaid)
        for taught, asked in pairs
        if taught and (unsaid := [i for i in asked if not _told(cases[i], taught)])
    ]


def halved(things: Sequence) -> tuple[list, list]:
    return list(things[: len(things) // 2]), list(things[len(things) // 2 :])


def _told(case: Case, taught: Sequence[Case]) -> bool:
    """Whether a row that is about the same person, or names them, says the answer already."""
    if not case.value:
        return False
    said = [(row, f"{row.question} {row.probe.answer}") for row in taught]
    same = [text for row, text in said if whose(row) == whose(case) or (case.name and case.name in text)]
    return any(case.told_by(text) for text in same)


def area(points: Sequence[tuple[float, float]]) -> float | None:
    """Mean height of the broken line through (step, share), from its first to its last step."""
    if len(points) < 2:
        return None
    width = points[-1][0] - points[0][0]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points)) / width


def first_at(points: Sequence[tuple[float, float]], level: float) -> float | None:
    """The step at which the broken line first reaches a level; None where it never does."""
    if points and points[0][1] >= level:
        return float(points[0][0])
    for (start, low), (end, high) in pairwise(points):
        if low < level <= high:
            return start + (end - start) * (level - low) / (high - low)
    return None
