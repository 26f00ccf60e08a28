"""Measuring a model or a run: a benchmark's figures, attacks, and the page that shows them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of, read_manifest
from expunge.run.make import Progress, load, model_hash, silent
from expunge.types import Figure

if TYPE_CHECKING:
    from expunge.benchmarks._benchmark import QABenchmark

EVALUATIONS = "evaluations"


def measure(
    name: str | Path,
    benchmark: QABenchmark,
    *,
    judge: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """The benchmark's records of a model or run, from the cache when they were measured before."""
    from expunge.benchmarks._qa import MEASURE
    from expunge.benchmarks._qa import measure as measure_rows

    settings = {key: value for key, value in benchmark.settings.items() if key not in ("half", "dialect")}
    key = hash_of([MEASURE, model_hash(name), settings, model_hash(judge) if judge else None])
    cached = store.cache_folder() / "records" / f"{key}.json"
    if cached.is_file():
        return store.read_json(cached)
    lm = load(name, device=device, template=benchmark.template)
    fluent = load(judge, device=device, template=benchmark.template) if judge else None
    records = measure_rows(
        lm,
        benchmark.tasks(),
        max_new_tokens=benchmark.max_new_tokens,
        judge=fluent,
        judged=("forget",),
        progress=lambda what: progress(what, 0, 1),
    )
    store.write_json(cached, records)
    return records


def evaluate(
    run: str | Path,
    benchmark: QABenchmark,
    *,
    gold: str | Path | None = None,
    floor: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Figures and records of a model or run on a benchmark, against a gold model where there is one.

    `floor`: a second gold; its distance from the first is what no method can be asked to beat. For a run folder the result
    also holds what its base model answered, and is written to its `evaluations`. Raises DataError or ModelError.
    """
    base = read_manifest(Path(run))["base"]["name"] if (Path(run) / "manifest.json").is_file() else None
    subjects = {"run": run, "target": base, "gold": gold, "floor": floor}
    clock = time.perf_counter()
    records = {
        who: measure(name, benchmark, judge=gold, device=device, progress=progress)
        for who, name in subjects.items()
        if name
    }
    result = {
        "schema": 1,
        **benchmark.settings,
        "subject": {"name": str(run), "sha256": model_hash(run)},
        "gold": {"name": str(gold), "sha256": model_hash(gold)} if gold else None,
        "roles": benchmark.roles._asdict(),
        "figures": {},
        "beside": {},
        "truth_ratios": {who: benchmark.truth_ratios(found) for who, found in records.items()},
        "seconds": round(time.perf_counter() - clock, 2),
        "rows": records["run"],
        "answers": {who: [record["generation"] for record in found] for who, found in records.items()},
    }
    for who, found in records.items():
        figures = {
            name: asdict(figure) for name, figure in benchmark.figures(found, records.get("gold")).items()
        }
        if who == "run":
            result["figures"] = figures
        else:
            result["beside"][who] = figures
    _keep(run, f"{benchmark.name}.json", result)
    return result


def attack(
    run: str | Path,
    benchmark: QABenchmark,
    name: str = "prefill",
    *,
    gold: str | Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Share of the forget facts that an attack brings back, from the run and from the gold model, with intervals."""
    method = catalog.load("attack", name)()
    probes = benchmark.forget_probes()
    found = {}
    for who, subject in (("run", run), ("gold", gold)):
        if subject is not None:
            found[who] = method.run(load(subject, device=device, template=benchmark.template), probes)
    result = {
        "schema": 1,
        "attack": name,
        "version": method.version,
        "tier": method.tier,
        **benchmark.settings,
        "subject": {"name": str(run), "sha256": model_hash(run)},
        "gold": {"name": str(gold), "sha256": model_hash(gold)} if gold else None,
        "figures": {f"{name}/{who}": asdict(_share(records)) for who, records in found.items()},
        "rows": found["run"],
    }
    _keep(run, f"attack-{name}.json", result)
    return result


def _share(records: Sequence[dict[str, Any]]) -> Figure:
    from expunge.metrics.intervals import wilson

    hits = sum(record["recovered"] for record in records)
    return (
        Figure(hits / len(records), len(records), *wilson(hits, len(records)))
        if records
        else Figure(None, why="no row could be prefilled")
    )


def _keep(run: str | Path, name: str, result: dict[str, Any]) -> None:
    folder = Path(run)
    if (folder / "manifest.json").is_file():
        store.write_json(folder / EVALUATIONS / name, result)


def report(run: str | Path) -> Path:
    """Write `report.html` in a run folder: one self-contained page. Returns its path."""
    from expunge.reports.page import write_report

    return write_report(Path(run))
