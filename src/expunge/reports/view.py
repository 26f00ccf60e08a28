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
AUDIT, AUDIT_SCHEMA = "audit.json", 4
KEYS = ("settings", "target", "metrics")
"""What every evaluation and audit of this version says."""
MEND = "Take the file away and make it again; replies that are kept are not asked again."
OLD_AUDIT = "{} was written by an earlier version. Attack again; replies that are kept are not asked again."


@dataclass
class RunView:
    """One run with its evaluation and its audit."""

    name: str
    folder: Path
    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    """Of the benchmark that the page is about."""
    others: list[dict[str, Any]]
    """Evaluations on other benchmarks."""
    audit: dict[str, Any] | None
    """Of the same benchmark; None where nobody tried to get the knowledge back."""
    trace: list[dict[str, Any]]

    @property
    def is_guard(self) -> bool:
        return self.manifest["kind"] == "guard"

    def figure(self, name: str, who: str = "run") -> dict[str, Any] | None:
        """A figure of the run, or of "target", "gold" or "floor" beside it; None where it was not measured. An attack's name
        stands for the share that it brings back, `any` or `any/T1` for that of all together, `<attack>/excess` for that less the
        gold's; `over_refusal` is the audit's too.
        """
        figures = self.evaluation["figures"] if who == "run" else self.evaluation["beside"].get(who, {})
        if name in figures or self.audit is None:
            return figures.get(name)
        held = self.audit["figures"]
        alone = held.get(f"{name.removesuffix('/excess')}/{who}")
        barred = alone if alone and alone["value"] is None else None
        return held.get(f"{name}/{who}", barred)

    def value(self, name: str, who: str = "run") -> float | None:
        figure = self.figure(name, who)
        return None if figure is None else figure["value"]

    @property
    def trajectory(self) -> list[dict[str, Any]]:
        """The probed points of the trace."""
        return [entry for entry in self.trace if "report" in entry]

    @property
    def tried(self) -> list[str]:
        """Names of the attacks that have a figure."""
        rows = self.audit["attacks"] if self.audit else []
        return [row["name"] for row in rows if row["asr"]["run"]["value"] is not None]

    def audit_rows(self, attack: str) -> list[dict[str, Any]]:
        """The trials of one attack."""
        return [row for row in self.audit["rows"] if row["attack"] == attack] if self.audit else []

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
    results = {path.stem: read_result(path) for path in sorted((folder / "evaluations").glob("*.json"))}
    old = [name for name, result in results.items() if any(key not in result for key in KEYS)]
    if old:
        raise DataError(
            f"{folder}: {', '.join(old)} was written by an earlier version. Evaluate and attack again; replies that are kept are not asked again."
        )
    audit = results.pop("audit", None)
    if audit and audit.get("schema") != AUDIT_SCHEMA:
        raise DataError(OLD_AUDIT.format(folder / "evaluations" / AUDIT))
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
    same = audit if audit and audit["benchmark"] == benchmark else None
    trace = folder / "trace.jsonl"
    lines = trace.read_text(encoding="utf-8").splitlines() if trace.is_file() else []
    told = [json.loads(line) for line in lines]
    return RunView(folder.resolve().name, folder, manifest, first, [*evaluations.values()], same, told)


def read_audit(folder: Path) -> dict[str, Any]:
    """The audit of a run folder. Raises DataError where there is none, or one of an earlier version."""
    path = folder / "evaluations" / AUDIT
    if not path.is_file():
        raise DataError(f"{folder} has not been audited. Run:  expunge attack {folder}")
    result = read_result(path)
    if result.get("schema") != AUDIT_SCHEMA:
        raise DataError(OLD_AUDIT.format(path))
    return result


def read_result(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}). {MEND}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: no JSON object. {MEND}")
    return found


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


def audit_yardstick(audit: dict[str, Any]) -> dict[str, Any]:
    """Everything that has to be the same for two audits to stand in one table, by name."""
    gold, target = audit["gold"], audit["target"]
    return {
        "benchmark": audit["benchmark"],
        "metrics": audit["metrics"],
        "attack seed": audit["seed"],
        "gold": gold and gold["sha256"],
        "target": target and target["sha256"],
        **audit["settings"],
    }


def audits_differ(first: dict[str, Any], other: dict[str, Any], name: str) -> str:
    """Why a figure of two audits does not compare; empty where it does. `name`: an attack, `any`, `any/T1`, `over_refusal`, `<attack>/excess`."""
    mine, theirs = audit_yardstick(first), audit_yardstick(other)
    different = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
    if different:
        return f"the audits differ in {', '.join(different)}"
    what, _, rest = name.partition("/")
    if what == "over_refusal":
        return ""
    tier = rest[:2] if what == "any" and rest.startswith("T") else "T9"
    sets = [
        {
            row["name"]: (row["version"], row["settings"])
            for row in audit["attacks"]
            if row["name"] == what or (what == "any" and row["kind"] == "open" and row["tier"] <= tier)
        }
        for audit in (first, other)
    ]
    if what == "any" and sets[0] != sets[1]:
        return "audited with other attacks, so what all of them find together does not compare"
    if what in sets[0] and what in sets[1] and sets[0][what] != sets[1][what]:
        return "tried with other settings"
    return ""
