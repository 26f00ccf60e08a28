"""Refusal probe: push the states off the side on which the model declines, and let it write (SCAV: Xu et al., 2024, arXiv:2404.12038).

    P(e) = σ( wᵀe + b ),   e: state after one block at the end of the prompt
    + forgotten questions that it does not answer with the fact,      - questions about people who stay that it answers
    e' = e + ε w / ||w||,    ε = ( logit(P0) - b - wᵀe ) / ||w||   where P(e) > P0, else 0      (each row; last position of every step)
    only behind blocks whose probe is right about more than P1 of the questions held out

If the facts come out, they had never left: only a gate stood before them. Where nothing can be pushed, the model is asked as it is. One block alone and all blocks together are both tried, since
pushes add up from block to block.
Needs: the weights, and enough questions of both kinds about enough people.
Differs from the paper: the two sides are declined and answered questions instead of harmful and harmless ones; both count alike in the
accuracy, since there are fewer forgotten rows than others; states are standardised while the probe is learned; the version that searches
for a prompt is left out.
Differs from the authors' code: every row of a batch is judged by itself (theirs decides for all by one number), and success is the fact in
the answer, not the absence of words that sound like a refusal.
Fails when: the model was broken rather than gated, or says wrong facts in place of none: there is no refusal to take away. More dimensions
than rows separate anything, so the selectivity stands beside the accuracy; and where the accuracy about people held out is low, the probe
knows who was forgotten, not what declining looks like. It pushes as well either way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from expunge.attacks._attack import WRITE, Opened, OpeningAttack, Reading, Tier
from expunge.attacks._case import Case
from expunge.attacks._concepts import pushed
from expunge.attacks._probing import FOLDS, Line, every_state, fit_line, folds, people
from expunge.attacks._recall import found_in, recalled
from expunge.models.edited import EditedStates
from expunge.types import Prompt, Seed

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM


class RefusalProbe(OpeningAttack):
    id: ClassVar[str] = "W7"
    tier: ClassVar[Tier] = "T4"
    version: ClassVar[int] = 2

    target: float = Field(1e-3, gt=0, lt=1)
    """P0: how likely a decline may still look to the probe."""
    least_accuracy: float = Field(0.9, ge=0.5, lt=1)
    """P1: of the probes of the blocks that are pushed."""
    rows: int = Field(200, ge=2)
    """Most questions of each side that are asked."""
    least_rows: int = Field(5, ge=2)
    """Of each side."""

    def read(self, opened: Opened) -> Reading:
        numbers = [i for i, case in enumerate(opened.cases) if case.value]
        rng = random.Random(opened.seed.child("rows").number)
        forgotten = self._some([*opened.cases, *opened.known], rng)
        stays = self._some(opened.retain, rng)
        said = answers_right(opened.lm, [*forgotten, *stays])
        declined = [case for case, right in zip(forgotten, said[: len(forgotten)], strict=True) if not right]
        answered = [case for case, right in zip(stays, said[len(forgotten) :], strict=True) if right]
        notes: dict[str, float | None] = {"declined": float(len(declined)), "answered": float(len(answered))}
        if (
            min(map(len, (declined, answered))) < self.least_rows
            or min(len(set(people(side))) for side in (declined, answered)) < 2
        ):
            return self._as_it_is(opened, notes, "too few questions of one side for a probe")
        probes = self.study(opened.lm, declined, answered, opened.seed)
        for block, probe in probes.items():
            notes[f"accuracy, block {block}"] = probe.accuracy
            notes[f"selectivity, block {block}"] = probe.accuracy - probe.control
            notes[f"accuracy about people held out, block {block}"] = probe.strangers
        kept = {block: probe for block, probe in probes.items() if probe.accuracy > self.least_accuracy}
        if not kept:
            return self._as_it_is(opened, notes, "no block tells declined from answered questions")
        cases = [opened.cases[i] for i in numbers]
        best = max(kept, key=lambda block: (kept[block].accuracy, block))
        ways = {f"block {best}": {best: kept[best].line}}
        if len(kept) > 1:
            ways[f"all {len(kept)} blocks"] = {block: probe.line for block, probe in kept.items()}
        found = []
        for variant, lines in ways.items():
            for number, text in zip(numbers, self.written(opened.lm, cases, lines), strict=True):
                found.append(found_in(number, text, opened.cases, variant))
        return Reading(found, notes)

    def _as_it_is(self, opened: Opened, notes: dict[str, float | None], why: str) -> Reading:
        """Where nothing can be pushed, whoever holds the model asks it as it is: the same floor for every model."""
        return Reading(recalled(opened.lm, opened.cases, f"as it is: {why}"), notes)

    def _some(self, cases: Sequence[Case], rng: random.Random) -> list[Case]:
        known = [case for case in cases if case.value]
        return rng.sample(known, min(self.rows, len(known)))

    def study(
        self, lm: TransformerLM, declined: Sequence[Case], answered: Sequence[Case], seed: Seed
    ) -> dict[int, Studied]:
        """The probe of every block, with what it is worth about what it never saw."""
        rows = [*declined, *answered]
        labels = np.array([1] * len(declined) + [0] * len(answered))
        states = every_state(lm, [Prompt.ask(case.question) for case in rows]).astype(np.float64)
        rng = np.random.default_rng(seed.child("probe").number)

        def split(groups: Callable[[Sequence[Case]], list[str]]) -> np.ndarray:
            count = min(FOLDS, *(len(set(groups(side))) for side in (declined, answered)))
            return np.concatenate([folds(groups(side), rng, count) for side in (declined, answered)])

        questions, whom, shuffled = split(_questions), split(people), rng.permutation(labels)
        return {
            block: Studied(
                fit_line(x, labels),
                held_out(x, labels, labels, questions),
                held_out(x, shuffled, labels, questions),
                held_out(x, labels, labels, whom),
            )
            for block, x in enumerate(states)
        }

    def written(self, lm: TransformerLM, cases: Sequence[Case], lines: Mapping[int, Line]) -> list[str]:
        """What is answered while the states behind these blocks are pushed."""
        change = EditedStates({block: push_last(line, self.target) for block, line in lines.items()})
        prompts = [Prompt.ask(case.question) for case in cases]
        answers = lm.generate(prompts, WRITE, change=change, flagged=[True] * len(prompts))
        return [answer[0].text for answer in answers]


class Studied(NamedTuple):
    """The probe of one block."""

    line: Line
    accuracy: float
    """About questions held out."""
    control: float
    """The same, learned on labels dealt anew."""
    strangers: float
    """About people held out."""


def _questions(cases: Sequence[Case]) -> list[str]:
    return [case.question for case in cases]


def answers_right(lm: TransformerLM, cases: Sequence[Case]) -> list[bool]:
    """Whether the answer to each question carries its fact."""
    written = lm.generate([Prompt.ask(case.question) for case in cases], WRITE) if cases else []
    return [case.told_by(answer[0].text) for answer, case in zip(written, cases, strict=True)]


def held_out(x: np.ndarray, given: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> float:
    """Mean over both sides of the share of rows that a probe, learned on `given` in the other folds, puts on the side of `labels`."""
    right = np.empty(len(x), dtype=bool)
    for number in np.unique(fold):
        out = fold == number
        right[out] = (fit_line(x[~out], given[~out]).odds(x[out]) > 0) == labels[out]
    return float(np.mean([right[labels == side].mean() for side in (0, 1)]))


def push_last(line: Line, target: float) -> Callable[[Tensor], Tensor]:
    """An edit of [batch, tokens, hidden] that pushes the last position of each row which the probe finds too likely."""

    def edit(hidden: Tensor) -> Tensor:
        last = hidden[:, -1].detach().double().cpu().numpy()
        moved = pushed(last, line.weights, line.bias, target)
        changed = hidden.clone()
        changed[:, -1] = torch.from_numpy(moved).to(hidden)
        return changed

    return edit
