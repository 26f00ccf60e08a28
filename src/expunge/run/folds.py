"""Larger and repeated requests: the folds of a benchmark forgotten with one recipe, and everything measured after each (MUSE's C5 and C6).

scalability: nested folds, each forgotten from the target. sustainability: disjoint folds, each forgotten from the result before it; a guard has
no weights to go on from and is fitted anew for all that was asked so far.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of, read_manifest
from expunge.benchmarks._open import open_benchmark
from expunge.data.dataset import Dataset
from expunge.errors import ConfigError, did_you_mean
from expunge.recipes import Recipe
from expunge.run.make import model_hash, unlearn
from expunge.run.measuring import count_tokens_of, measure, metric_versions

if TYPE_CHECKING:
    from expunge.run.bench import Models

Kind = Literal["scalability", "sustainability"]
KINDS: tuple[Kind, ...] = ("scalability", "sustainability")
RESULT = "folds.json"


def refuse_protocol(protocol: str, recipes: dict[str, Recipe]) -> None:
    """Raises ConfigError for a protocol that there is not, and for a recipe that cannot go on from its own result. "" is the usual one."""
    if protocol and protocol not in KINDS:
        raise ConfigError(
            f"--protocol {protocol}: no such protocol.{did_you_mean(protocol, KINDS)} There are {' and '.join(KINDS)}, beside the usual one."
        )
    for name, made in recipes.items():
        if protocol == "sustainability" and getattr(made.axes.get("adapter"), "artifact", "") == "adapter":
            raise ConfigError(
                f"--protocol sustainability: '{name}' makes an adapter, which holds no whole model that the next fold could start from.\n"
                "Take a method that changes the weights, or --protocol scalability."
            )


def run_folds(out: str, spec: tuple[str, dict[str, Any]], models: Models, made: Recipe, kind: Kind) -> float:
    """One method over all folds, in `out`: a run a fold, `folds.json`, and all rows as `folds.parquet`. What is finished is not done again.

    Folds run all epochs of the recipe: a stop rule looks at the benchmark's own forget questions, and a fold's may be others. Returns
    seconds; 0 when all of it was there.
    """
    begin = time.perf_counter()
    name, arguments = spec
    benchmark: Any = open_benchmark(name, **arguments)
    refuse_protocol(kind, {Path(out).name: made})
    count_tokens_of(models.target, benchmark)
    if made.kind == "training":
        made = made.model_copy(
            update={"train": made.train.model_copy(update={"select": "last", "probe_every": None})}
        )
    folds = benchmark.folds(kind)
    runs = []
    for number, data in enumerate(folds, start=1):
        goes_on = kind == "sustainability" and made.kind != "guard" and runs
        runs.append(
            unlearn(
                runs[-1] if goes_on else models.target,
                _together(folds[:number]) if kind == "sustainability" and made.kind == "guard" else data,
                made,
                Path(out) / f"fold{number}",
                base=models.base,
                refusals=benchmark.refusals() if hasattr(benchmark, "refusals") else (),
                template=benchmark.template,
            )
        )
    inputs = hash_of(
        [
            kind,
            metric_versions(),
            benchmark.settings,
            *(model_hash(model) for model in (models.target, models.gold, *runs)),
        ]
    )
    kept = Path(out) / RESULT
    if kept.is_file() and store.read_json(kept)["inputs"] == inputs:
        return 0.0
    result, rows = _measured(benchmark, models, runs, [len(data.forget) for data in folds])
    store.write_table(kept.with_suffix(".parquet"), rows)
    store.write_json(kept, {"protocol": kind, "inputs": inputs, **result})
    return time.perf_counter() - begin


def _measured(
    benchmark: Any, models: Models, runs: Sequence[Path], sizes: Sequence[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is known of the runs, with target and gold beside them, and the rows of all runs."""
    named = {"target": models.target, "gold": models.gold}
    beside = {who: measure(name, benchmark, judge=models.gold) for who, name in named.items()}

    def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
        found = benchmark.figures(rows, beside["gold"], beside["target"])
        return {name: asdict(figure) for name, figure in found.items()}

    folds, every = [], []
    for number, (run, size) in enumerate(zip(runs, sizes, strict=True), start=1):
        rows = measure(run, benchmark, judge=models.gold)
        every += [{"fold": number, **row} for row in rows]
        folds.append(
            {
                "fold": number,
                "forget_rows": size,
                "run": str(run),
                "sha256": model_hash(run),
                "seconds": read_manifest(run)["seconds"]["total"],
                "figures": figures(rows),
            }
        )
    manifest = read_manifest(runs[-1])
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "settings": benchmark.settings,
        "method": manifest["method"],
        "claim": manifest["claim"],
        "columns": benchmark.columns,
        "beside": {who: {"name": named[who], "figures": figures(rows)} for who, rows in beside.items()},
        "folds": folds,
    }, every


def _together(folds: Sequence[Dataset]) -> Dataset:
    """Everything that the folds forget."""
    return replace(folds[-1], forget=tuple(record for data in folds for record in data.forget))
