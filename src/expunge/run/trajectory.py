"""Points of a trajectory: what a benchmark says about the model while it is being trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.benchmarks._qa import measure
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


def trajectory_probe(
    benchmark: Any, gold: str | Path | None
) -> Callable[[LanguageModel, int], dict[str, Any]]:
    """A probe for `unlearn`: figures of both halves, and the level of the selection half that `select: level` goes by.

    The level looks at the model alone; the gold serves for the figures that are shown.
    """
    from expunge.run import load

    halves = {half: benchmark.of_half(half) for half in ("select", "report")}
    tasks = benchmark.probe_tasks()
    judge = load(gold, device="cpu", template=benchmark.template) if gold else None

    def records_of(model: LanguageModel) -> list[dict[str, Any]]:
        return measure(model, tasks, max_new_tokens=benchmark.max_new_tokens, judge=judge, judged=("forget",))

    gold_records = records_of(judge) if judge else None

    def probe(model: LanguageModel, step: int) -> dict[str, Any]:
        records = records_of(model)
        figures = {half: part.figures(records, gold_records) for half, part in halves.items()}
        level = halves["select"].level(records)
        return {
            "level_reached": level.reached,
            "level_gap": level.gap,
            "utility": figures["select"]["model_utility"].value,
            **{half: _shown(found) for half, found in figures.items()},
        }

    return probe


def _shown(figures: dict[str, Figure]) -> dict[str, float | None]:
    accuracies = [name for name in figures if name.endswith("/accuracy")]
    return {name: figures[name].value for name in dict.fromkeys([*SHOWN, *accuracies]) if name in figures}
