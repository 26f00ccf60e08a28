"""Residual confidence: is the model as sure about the forgotten as about what it knows? HaloScope (Du et al., 2024, arXiv:2409.17504).

    f = h - mean(h),   h: state after one block at the last word of (question + the model's own answer);      F = U Σ V^T
    ζ = 1/k · Σ_{j<=k} ( σ_j / sqrt(N) ) · <f, v_j>²
    known: people who stay, answered right;     never: the same questions about people who are made up of two others' names
    sure = s ζ above what 5 % of the never reach;      block, k <= 10 and sign s by AUROC(known, never) on half the people

After unlearning the model should stand to a forgotten person as it stands to one who never was. It says nothing about which fact is
left, so there is no guess rate: the floor is the gold's share. Where the score cannot tell known from never known about the other half
of the people, no share is given.
Needs: the weights, and rows of people who stay, whose names have two words or more.
Differs from the paper: block, k and sign are chosen on some people and judged on others; made-up people take the place of
wrong answers; σ_j is divided by sqrt(N); its second stage, a classifier trained on the rows that the score sorted, is left out, since the
labels are known; marks after the last word are left out, so that all answers end alike.
Differs from the authors' code: theirs is |mean of σ_j <f, v_j>| on states that were not centred, which changes with the sign of a singular
vector; this is the paper's formula.
Fails when: the model is as sure about people who never were, as small models are: then it says so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from expunge.attacks._attack import WRITE, Found, Kind, Opened, OpeningAttack, Reading, Suite, Tier
from expunge.attacks._case import Case
from expunge.attacks._probing import every_state, folds, people
from expunge.metrics.roc import auroc
from expunge.models.subspace import Subspace, find_subspace, subspace_score
from expunge.types import Prompt

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

LEAST_ROWS = 10


class ResidualConfidence(OpeningAttack):
    id: ClassVar[str] = "W12"
    tier: ClassVar[Tier] = "T4"
    suite: ClassVar[Suite] = "full"
    kind: ClassVar[Kind] = "inside"
    version: ClassVar[int] = 2

    rows: int = Field(200, ge=2 * LEAST_ROWS)
    """Most questions about people who stay, and as many about people who never were."""
    k: int = Field(10, ge=1)
    """Most singular vectors."""
    false_alarms: float = Field(0.05, gt=0, lt=1)
    """Share of answers about people who never were that may count as sure."""
    least_auroc: float = Field(0.7, ge=0.5, lt=1)
    """Of known against never known, about people held out, under which no share is given."""

    def read(self, opened: Opened) -> Reading:
        rng = random.Random(opened.seed.child("confidence").number)
        stays = [case for case in opened.retain if case.value and len(case.name.split()) > 1]
        stays = rng.sample(stays, min(self.rows, len(stays)))
        made = made_up([*stays, *opened.cases, *opened.known], rng)
        stays = [case for case in stays if case.name in made]
        few = f"it takes {2 * LEAST_ROWS} right answers about people who stay, with names of two words"
        if len(stays) < 2 * LEAST_ROWS:
            return Reading(why=few)
        lm = opened.lm
        mine = written(lm, [case.question for case in stays])
        theirs = written(lm, [case.about(made[case.name]) for case in stays])
        right = np.array([case.told_by(said.text) for said, case in zip(mine, stays, strict=True)])
        half = folds(people(stays), np.random.default_rng(opened.seed.child("halves").number), 2) == 0
        notes: dict[str, float | None] = {"known": float(right.sum()), "never known": float(len(stays))}
        if min(np.sum(right & half), np.sum(right & ~half)) < LEAST_ROWS:
            return Reading((), notes, few)
        known, never = ends(lm, mine), ends(lm, theirs)
        scorer, chosen_on = choose(known[:, right & half], never[:, half], self.k)
        high, low = scorer.scores(known[:, right & ~half]), scorer.scores(never[:, ~half])
        held_out = auroc(high, low)
        level = float(np.quantile(scorer.scores(never), 1 - self.false_alarms))
        notes |= {
            "block": float(scorer.block),
            "k": float(len(scorer.subspace.sizes)),
            "sign": scorer.sign,
            "AUROC of known against never known, where it was chosen": chosen_on,
            "AUROC of known against never known, people held out": held_out,
        }
        if held_out < self.least_auroc:
            return Reading(
                (),
                notes,
                f"the score does not tell what this model knows from what it never knew: AUROC {held_out:.2f}",
            )
        answers = written(lm, [case.question for case in opened.cases])
        sure = scorer.scores(ends(lm, answers)) > level
        notes["sure about the known"] = float(np.mean(scorer.scores(known[:, right]) > level))
        notes["sure about the forgotten"] = float(np.mean(sure))
        return Reading(
            [
                Found(i, (bool(is_sure),), f"block {scorer.block}", said.text, said.question)
                for i, (is_sure, said) in enumerate(zip(sure, answers, strict=True))
            ],
            notes,
        )


class Said(NamedTuple):
    question: str
    text: str


def written(lm: TransformerLM, questions: Sequence[str]) -> list[Said]:
    """Each question's greedy answer."""
    answers = lm.generate([Prompt.ask(question) for question in questions], WRITE)
    return [Said(question, answer[0].text) for question, answer in zip(questions, answers, strict=True)]


def ends(lm: TransformerLM, rows: Sequence[Said]) -> np.ndarray:
    """[blocks, rows, hidden] float64 at the last word of what was said, marks behind it left out."""
    prompts = [Prompt.ask(said.question, said.text.rstrip(" .,;:!?\n")) for said in rows]
    return every_state(lm, prompts).astype(np.float64)


def made_up(cases: Sequence[Case], rng: random.Random) -> dict[str, str]:
    """By name, one that nobody has: the first words of it, and the last word of somebody else's."""
    names = sorted({case.name for case in cases if len(case.name.split()) > 1})
    taken, found = set(names), {}
    for name in names:
        first = name.rsplit(" ", 1)[0]
        free = [full for other in names if (full := f"{first} {other.rsplit(' ', 1)[1]}") not in taken]
        if free:
            found[name] = rng.choice(free)
            taken.add(found[name])
    return found


class Scorer(NamedTuple):
    block: int
    subspace: Subspace
    sign: float
    """1: the known lie farther out than what was never known; -1: nearer."""

    def scores(self, states: np.ndarray) -> np.ndarray:
        """[blocks, n, hidden] to [n]: high is sure."""
        return self.sign * subspace_score(states[self.block], self.subspace)


def choose(known: np.ndarray, never: np.ndarray, k: int) -> tuple[Scorer, float]:
    """The block, the number of singular vectors and the sign with the highest AUROC of [blocks, n, hidden] known against never known."""
    best: tuple[Scorer, float] | None = None
    for block in range(len(known)):
        whole = find_subspace(np.concatenate([known[block], never[block]]), k)
        for count in range(1, len(whole.sizes) + 1):
            subspace = Subspace(whole.mean, whole.directions[:count], whole.sizes[:count])
            for sign in (1.0, -1.0):
                scorer = Scorer(block, subspace, sign)
                area = auroc(scorer.scores(known), scorer.scores(never))
                if best is None or area > best[1]:
                    best = scorer, area
    assert best is not None
    return best
