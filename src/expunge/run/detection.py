"""What a detector sees: misses and false alarms for every way of asking that is known, with intervals. No answer is looked at."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from expunge.attacks._case import Case, cases_of
from expunge.attacks._prompts import OFF_DOMAIN
from expunge.attacks._rewrites import REWRITES, rewrite
from expunge.data.dataset import Dataset
from expunge.data.subjects import find_names
from expunge.metrics.intervals import Interval, wilson
from expunge.run.material import file_cases, probe_of_record
from expunge.types import Seed

if TYPE_CHECKING:
    import numpy as np

    from expunge.benchmarks._qa_benchmark import QABenchmark
    from expunge.guards.detection import Detection

MOST = 300
"""Rows of each class that are rewritten: no error in so many shows a rate under 1.3 %."""
FORGET, RETAIN, LOOK_ALIKES, OFF = "forget", "retain", "look-alikes", "off-domain"


class Flags(Protocol):
    """A guard, or a detection by itself."""

    def flags(self, texts: Sequence[str]) -> list[bool]: ...


@dataclass(frozen=True)
class Counted:
    """How often prompts of one kind were flagged."""

    rewrite: str
    rows: str
    """Whose: "forget", "retain", or another group of prompts that are out of scope."""
    in_scope: bool
    n: int
    """Prompts; rows that a rewrite cannot be made of are not among them."""
    flagged: int

    @property
    def wrong(self) -> int:
        """Misses of what is in scope, false alarms of what is not."""
        return self.n - self.flagged if self.in_scope else self.flagged

    @property
    def rate(self) -> float | None:
        """Of what is wrong; None where there is no such prompt."""
        return self.wrong / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's, 95 %; it takes the prompts for independent, which those about one person are not quite."""
        return wilson(self.wrong, self.n) if self.n else None

    def describe(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "rewrite": self.rewrite, "rows": self.rows, "in_scope": self.in_scope, "n": self.n, "flagged": self.flagged,
            "wrong": self.wrong, "rate": self.rate, "interval": list(self.interval) if self.interval else None,
        }  # fmt: skip


class Material(NamedTuple):
    """What is asked."""

    inside: list[Case]
    outside: list[Case]
    """Retain rows, rewritten in the same ways."""
    groups: dict[str, list[str]]
    """More prompts that are out of scope, as they are."""


def detector_table(
    detector: Flags,
    rows: QABenchmark | Dataset,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Counted]:
    """For each rewrite, how many forget prompts are missed and how many retain prompts raise a false alarm; then the other
    groups that are out of scope. Of a benchmark, those forget rows count that are of its half.
    """
    material = _of_files(rows, seed) if isinstance(rows, Dataset) else _of_benchmark(rows, seed)
    found = []
    for done, name in enumerate(REWRITES):
        progress("detecting", done, len(REWRITES))
        for group, asked in ((FORGET, material.inside), (RETAIN, material.outside)):
            made = [rewrite(row, name, seed) for row in asked]
            found.append(_count(detector, name, group, [prompt.text for prompt in made if prompt]))
    found += [_count(detector, "as it is", group, prompts) for group, prompts in material.groups.items()]
    progress("detecting", len(REWRITES), len(REWRITES))
    return found


def _count(detector: Flags, name: str, group: str, prompts: Sequence[str]) -> Counted:
    flagged = sum(detector.flags(prompts)) if prompts else 0
    return Counted(name, group, group == FORGET, len(prompts), flagged)


# --- what is asked ------------------------------------------------------------------------------------------------------
def _of_benchmark(benchmark: QABenchmark, seed: int) -> Material:
    tasks, data = benchmark.tasks(), benchmark.dataset()
    retain = tasks[benchmark.roles.retain]
    names = data.subjects or find_names(data.forget, data.retain)
    groups = {
        task: [probe.question for probe in probes]
        for task, probes in tasks.items()
        if task not in (benchmark.roles.forget, benchmark.roles.retain)
    }
    return _material(
        cases_of(benchmark.forget_probes(), retain, names), cases_of(retain, retain), groups, seed
    )


def _of_files(data: Dataset, seed: int) -> Material:
    retain = [probe_of_record(record) for record in data.retain]
    return _material(file_cases(data, retain), cases_of(retain, retain), {}, seed)


def _material(inside: list[Case], outside: list[Case], groups: dict[str, list[str]], seed: int) -> Material:
    more = {f"{RETAIN}, all of them": [asked.question for asked in outside]} if len(outside) > MOST else {}
    groups = {**more, LOOK_ALIKES: list(_look_alikes(inside, outside, seed)), **groups, OFF: list(OFF_DOMAIN)}
    return Material(
        _sample(inside, seed),
        _sample(outside, seed),
        {name: prompts for name, prompts in groups.items() if prompts},
    )


def _sample(rows: list[Case], seed: int) -> list[Case]:
    return random.Random(Seed(seed).child("rows").number).sample(rows, MOST) if len(rows) > MOST else rows


def _look_alikes(inside: list[Case], outside: list[Case], seed: int) -> Iterator[str]:
    """The forget questions about people that nobody has heard of: half of their name is the target's, half that of somebody who stays."""
    rng = random.Random(Seed(seed).child("look-alikes").number)
    staying = sorted({asked.name for asked in outside if " " in asked.name})
    taken = {asked.name for asked in (*inside, *outside)}
    for asked in inside if staying else ():
        if " " not in asked.name:
            continue
        (first, _, last), (other_first, _, other_last) = (
            name.rpartition(" ") for name in (asked.name, rng.choice(staying))
        )
        made = rng.choice([f"{first} {other_last}", f"{other_first} {last}"])
        if made not in taken:
            yield asked.about(made)


# --- single prompts -----------------------------------------------------------------------------------------------------
def decisions(detection: Detection, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """For each prompt its score, the threshold, whether it is in scope, and where a detector has parts, what each of them says."""
    calibration = detection.calibration

    def verdicts(scores: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"score": None if math.isnan(score) else score, "in_scope": flag}
            for score, flag in zip(scores.tolist(), calibration.flags(scores), strict=True)
        ]

    found: list[dict[str, Any]] = [
        {"prompt": prompt, **verdict, "threshold": calibration.threshold, "parts": {}}
        for prompt, verdict in zip(prompts, verdicts(detection.scores(prompts)), strict=True)
    ]
    part_scores = getattr(detection.fitted, "part_scores", lambda texts: {})
    for name, scores in part_scores(prompts).items():
        for decision, verdict in zip(found, verdicts(scores), strict=True):
            decision["parts"][name] = verdict
    return found
