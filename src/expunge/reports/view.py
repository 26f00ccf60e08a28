"""What a run folder holds, read for showing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.artifacts.manifest import read_manifest
from expunge.errors import DataError

BEHAVIOUR = ("forget/accuracy", "forget/rouge_l_recall", "forget/fluency", "prefill")
"""What anybody who asks can see of a model; defined for every method, guards with fixed answers too."""


@dataclass
class RunView:
    """One run with its evaluation and attacks."""

    name: str
    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    """Of the benchmark that the page is about."""
    others: list[dict[str, Any]]
    """Evaluations on other benchmarks."""
    attacks: dict[str, dict[str, Any]]
    trace: list[dict[str, Any]]

    @property
    def is_guard(self) -> bool:
        return self.manifest["kind"] == "guard"

    def figure(self, name: str, who: str = "run") -> dict[str, Any] | None:
        """A figure of the run, or of "target", "gold" or "floor" beside it; None where it was not measured. An attack's name
        stands for the share that it brings back, `<attack>/excess` for that less the gold's.
        """
        attack = name.partition("/")[0]
        if attack in self.attacks:
            return self.attacks[attack]["figures"].get(f"{name}/{who}")
        figures = self.evaluation["figures"] if who == "run" else self.evaluation["beside"].get(who, {})
        return figures.get(name)

    def value(self, name: str, who: str = "run") -> float | None:
        figure = self.figure(name, who)
        return None if figure is None else figure["value"]

    @property
    def trajectory(self) -> list[dict[str, Any]]:
        """The probed points of the trace."""
        return [entry for entry in self.trace if "report" in entry]

    @property
    def behaviour_gap(self) -> float | None:
        """Mean absolute difference from the gold over BEHAVIOUR; 0 is what the gold does."""
        gaps = []
        for name in BEHAVIOUR:
            run, gold = self.value(name), self.value(name, "gold")
            if run is not None and gold is not None:
                gaps.append(abs(run - gold))
        return sum(gaps) / len(gaps) if gaps else None


def read_run(folder: Path, benchmark: str | None = None) -> RunView:
    """A run, seen by one of the benchmarks that it was evaluated on: `benchmark`, else one with questions, answers and a KS test, else
    the first. Raises ModelError for a folder that is no run, DataError for one that has not been evaluated so.
    """
    manifest = read_manifest(folder)
    results = {path.stem: _read(path) for path in sorted((folder / "evaluations").glob("*.json"))}
    old = [name for name, result in results.items() if "settings" not in result]
    if old:
        raise DataError(
            f"{folder}: {', '.join(old)} was written by an earlier version. Evaluate and attack again; replies that are kept are not asked again."
        )
    evaluations = {name: result for name, result in results.items() if "attack" not in result}
    if not evaluations:
        raise DataError(f"{folder} has not been evaluated. Run:  expunge evaluate {folder} --benchmark ...")
    if benchmark is None:
        benchmark = next((name for name, found in evaluations.items() if "roles" in found), min(evaluations))
    if benchmark not in evaluations:
        raise DataError(
            f"{folder} has not been evaluated on {benchmark}, only on {', '.join(evaluations)}.\n"
            f"Run:  expunge evaluate {folder} --benchmark {benchmark} --data ..."
        )
    first = evaluations.pop(benchmark)
    attacks = {
        result["attack"]: result
        for result in results.values()
        if "attack" in result and result["benchmark"] == benchmark
    }
    trace = folder / "trace.jsonl"
    lines = trace.read_text(encoding="utf-8").splitlines() if trace.is_file() else []
    return RunView(
        folder.name, manifest, first, [*evaluations.values()], attacks, [json.loads(line) for line in lines]
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path}: not readable ({error}). Evaluate the run again, or take the file away."
        ) from None


def yardstick(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Everything that has to be the same for two evaluations to stand in one table, by name."""
    gold, target = evaluation["gold"], evaluation["target"]
    return {
        "benchmark": evaluation["benchmark"],
        "version": evaluation["version"],
        "metrics": evaluation["metrics"],
        "gold": gold and gold["sha256"],
        "target": target and target["sha256"],
        "tokens": evaluation.get("tokens"),
        **evaluation["settings"],
    }


def same_yardstick(runs: list[RunView]) -> None:
    """Raises DataError when runs were measured on different data or against different golds: their figures do not compare."""
    first = yardstick(runs[0].evaluation)
    for run in runs[1:]:
        other = yardstick(run.evaluation)
        different = [key for key in {**first, **other} if first.get(key) != other.get(key)]
        if different:
            raise DataError(
                f"{runs[0].name} and {run.name} were measured differently ({', '.join(different)}), so one table would mislead.\n"
                "Evaluate them on the same benchmark, half, --gold and --target, or compare them apart."
            )
