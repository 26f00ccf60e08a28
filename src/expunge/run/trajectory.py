"""Points of a trajectory: what a benchmark says about the model while it is being trained."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.artifacts.manifest import hash_of
from expunge.benchmarks._asks import ask
from expunge.benchmarks._benchmark import Benchmark
from expunge.benchmarks._qa import MEASURE, measure
from expunge.benchmarks._qa_benchmark import QABenchmark
from expunge.errors import ConfigError
from expunge.run.make import load, model_hash
from expunge.types import Figure, LanguageModel

SHOWN = (
    "forget_quality/ks_p",
    "forget_quality/ks_distance",
    "model_utility",
    "forget/accuracy",
    "forget/probability",
    "forget/fluency",
    "retain/accuracy",
)
KNOWS = "forget/rouge_l_recall"
"""Stands in for what MUSE's stop rule compares, in question-answer benchmarks: TOFU's recall with stemming. MUSE's own knowledge memorisation
is a ROUGE-L F1 without stemming (`KnowledgeProbe`)."""


def probe_of(benchmark: Benchmark, gold: str | Path | None) -> TrajectoryProbe | KnowledgeProbe:
    """The probe of a benchmark. Raises ConfigError for one that cannot be asked on the way."""
    if isinstance(benchmark, QABenchmark):
        return TrajectoryProbe(benchmark, gold)
    if hasattr(benchmark, "knows"):
        return KnowledgeProbe(benchmark, gold)
    raise ConfigError(
        f"benchmark {benchmark.name} cannot be asked while a model is trained. Take pocket, tofu or muse, or train.select=last without train.probe_every."
    )


class KnowledgeProbe:
    """A probe for `unlearn` with MUSE's stop rule itself (`select: gold`): the benchmark's figure `knows` against the gold's. There are no
    wrong answers to compare with, so no point is ever level.
    """

    def __init__(self, benchmark: Any, gold: str | Path | None):
        self.key = hash_of([benchmark.settings, model_hash(gold) if gold else None])
        self.benchmark, self.gold = benchmark, gold

    def __call__(self, model: LanguageModel, step: int) -> dict[str, Any]:
        found = self._figures(model)
        reached = (
            None if self._gold is None else found[self.benchmark.knows] <= self._gold[self.benchmark.knows]
        )
        return {
            "gold_reached": reached,
            "level_reached": False,
            "utility": found["retain/knowmem"],
            "figures": found,
        }

    def _figures(self, model: LanguageModel) -> dict[str, float]:
        rows = self.benchmark.knowledge_rows(ask(model, self.benchmark.knowledge_asks()))
        return {name: figure.number for name, figure in self.benchmark.knowledge_figures(rows).items()}

    @cached_property
    def _gold(self) -> dict[str, float] | None:
        return (
            self._figures(load(self.gold, device="cpu", template=self.benchmark.template))
            if self.gold
            else None
        )


class TrajectoryProbe:
    """A probe for `unlearn`: figures of both halves, and the level of the selection half that `select: level` goes by.

    The level looks at the model alone; the gold serves for the figures that are shown, and for `select: gold`. The gold is only loaded at the first
    point: a run that is finished needs none.
    """

    def __init__(self, benchmark: QABenchmark, gold: str | Path | None):
        self.key = hash_of([MEASURE, benchmark.settings, model_hash(gold) if gold else None])
        self.benchmark, self.gold = benchmark, gold
        self.halves = {half: benchmark.of_half(half) for half in ("select", "report")}
        self.tasks = benchmark.probe_tasks()

    def __call__(self, model: LanguageModel, step: int) -> dict[str, Any]:
        records = self._records(model)
        figures = {half: part.figures(records, self._gold_records) for half, part in self.halves.items()}
        level = self.halves["select"].level(records)
        return {
            "gold_reached": self._gold_reached(figures["select"]),
            "level_reached": level.reached,
            "level_gap": level.gap,
            "utility": figures["select"]["model_utility"].value,
            **{half: _shown(found) for half, found in figures.items()},
        }

    def _gold_reached(self, figures: dict[str, Figure]) -> bool | None:
        """Whether the selection half is known no better than by the gold: MUSE's stop rule on ROUGE-L recall (KNOWS)."""
        if self._gold_records is None:
            return None
        gold = self.halves["select"].figures(self._gold_records, None)
        return figures[KNOWS].number <= gold[KNOWS].number

    def _records(self, model: LanguageModel) -> list[dict[str, Any]]:
        return measure(
            model,
            self.tasks,
            max_new_tokens=self.benchmark.max_new_tokens,
            judge=self._judge,
            judged=("forget",),
        )

    @cached_property
    def _judge(self) -> LanguageModel | None:
        return load(self.gold, device="cpu", template=self.benchmark.template) if self.gold else None

    @cached_property
    def _gold_records(self) -> list[dict[str, Any]] | None:
        return self._records(self._judge) if self._judge else None


def _shown(figures: dict[str, Figure]) -> dict[str, float | None]:
    accuracies = [name for name in figures if name.endswith("/accuracy")]
    return {name: figures[name].value for name in dict.fromkeys([*SHOWN, *accuracies]) if name in figures}
