"""Measuring a model or a run: a benchmark's figures, attacks, and the page that shows them."""

from __future__ import annotations

import pkgutil
import time
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of, read_manifest
from expunge.errors import DataError, ModelError
from expunge.run.asking import Judge, replies_of
from expunge.run.make import Progress, is_address, load, model_folder, model_hash, silent

if TYPE_CHECKING:
    from expunge.benchmarks._benchmark import Benchmark

EVALUATIONS = "evaluations"
SCHEMA = 3
"""Of the files in `evaluations`."""


def measure(
    name: str | Path,
    benchmark: Benchmark,
    *,
    judge: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """The benchmark's rows of a model or run. What was asked of the same weights before is not asked again."""
    more: dict[str, Any] = {"template": benchmark.template, "device": device}
    try:
        replies = replies_of(name, benchmark.asks(), open_model=load, progress=progress, **more)
    except DataError as error:
        raise DataError(f"{error}\n{benchmark.too_long}".rstrip()) from None
    return benchmark.judge(benchmark.rows(replies), Judge(judge, **more) if judge else None)


def evaluate(
    run: str | Path,
    benchmark: Benchmark,
    *,
    gold: str | Path | None = None,
    floor: str | Path | None = None,
    target: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Figures and rows of a model or run on a benchmark, against a gold model where there is one.

    `floor`: a second gold; its distance from the first is what no method can be asked to beat. `target`: the model before unlearning; a
    run folder knows its own. A run folder keeps the result in its `evaluations`: all of it as JSON, the rows as Parquet too; `out`
    is another file to keep it in. Raises DataError or ModelError.
    """
    subjects = {"run": run, "target": target or base_of(run), "gold": gold, "floor": floor}
    for name in subjects.values():
        if name:
            model_hash(name)  # a name that is wrong is told before anything is measured
    _refuse_other_tokens(run, gold)
    clock = time.perf_counter()
    tokens = count_tokens_of(run, benchmark)
    rows = {
        who: measure(name, benchmark, judge=gold, device=device, progress=progress)
        for who, name in subjects.items()
        if name
    }
    figures = {
        who: {
            name: asdict(figure)
            for name, figure in benchmark.figures(found, rows.get("gold"), rows.get("target")).items()
        }
        for who, found in rows.items()
    }
    result = {
        "schema": SCHEMA,
        **_yardstick(benchmark, gold),
        "target": _named(subjects["target"]),
        **({"tokens": tokens} if tokens else {}),
        "columns": benchmark.columns,
        "subject": subject_of(run),
        "figures": figures["run"],
        "beside": {who: found for who, found in figures.items() if who != "run"},
        "seconds": round(time.perf_counter() - clock, 2),
        "rows": rows["run"],
        **benchmark.shown(rows),
    }
    if out:
        _write(Path(out), result)
    keep(run, f"{benchmark.name}.json", result)
    return result


def _refuse_other_tokens(run: str | Path, gold: str | Path | None) -> None:
    """Raises ModelError where run and gold cut texts into other tokens: likelihoods a token do not compare."""
    if not gold or is_address(gold) or is_address(run) or model_folder(run) == model_folder(gold):
        return
    from expunge.models.load import load_tokenizer

    ours, theirs = (load_tokenizer(model_folder(name)).get_vocab() for name in (run, gold))
    if ours != theirs:
        raise ModelError(
            f"--gold {gold}: its tokenizer is another one than that of {run} ({len(theirs)} tokens, here {len(ours)}), so likelihoods a token do not"
            " compare.\nGive a model that was retrained from the same base."
        )


def count_tokens_of(name: str | Path, benchmark: Benchmark) -> str:
    """Let a benchmark that counts tokens count those of a model's tokenizer. Returns whose they are, "" where nothing is counted."""
    if not benchmark.counts_tokens:
        return ""
    if is_address(name):
        return "words: an endpoint does not show its tokens"
    from expunge.data.tokenize import pieces
    from expunge.models.load import load_tokenizer

    tokenizer = load_tokenizer(model_folder(name))
    benchmark.pieces = partial(pieces, tokenizer)
    return hash_of(sorted(tokenizer.get_vocab().items()))


def _yardstick(benchmark: Benchmark, gold: str | Path | None) -> dict[str, Any]:
    """What figures were taken with: those of another yardstick do not compare."""
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "metrics": metric_versions(),
        "settings": benchmark.settings,
        "gold": _named(gold),
    }


def _named(model: str | Path | None) -> dict[str, str] | None:
    return {"name": str(model), "sha256": model_hash(model)} if model else None


def metric_versions() -> str:
    """What identifies the definitions of all metrics: a figure of other definitions does not compare."""
    from expunge import metrics

    names = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))
    return hash_of({name: import_module(f"{metrics.__name__}.{name}").VERSION for name in names})


def subject_of(run: str | Path) -> dict[str, Any]:
    """What was measured; a run says its method and its claim."""
    facts: dict[str, Any] = {"name": str(run), "sha256": model_hash(run)}
    if (Path(run) / "manifest.json").is_file():
        manifest = read_manifest(Path(run))
        facts |= {key: manifest[key] for key in ("kind", "method", "claim")}
        facts["seconds"] = manifest["seconds"]["total"]
    return facts


def base_of(run: str | Path) -> str | None:
    """The model that a run folder was made from."""
    return read_manifest(Path(run))["base"]["name"] if (Path(run) / "manifest.json").is_file() else None


def keep(run: str | Path, name: str, result: dict[str, Any]) -> None:
    folder = Path(run)
    if (folder / "manifest.json").is_file():
        _write(folder / EVALUATIONS / name, result)


def _write(path: Path, result: dict[str, Any]) -> None:
    store.write_json(path, result)
    store.write_table(path.with_suffix(".parquet"), result["rows"])


def report(run: str | Path) -> Path:
    """Write `report.html` in a run folder: one self-contained page. Returns its path."""
    from expunge.reports.page import write_report

    return write_report(Path(run))
