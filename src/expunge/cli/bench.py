"""`expunge bench`: a benchmark from end to end, with one report."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli.options import Authors, Data, Json, Numbers, Split, Template


def bench(
    name: Annotated[str, typer.Argument(help="pocket, tofu or muse.")] = "pocket",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the runs and the report. Default: runs/NAME.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="Comma-separated presets or method strings. Default: the benchmark's table."
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="usual (for muse: six, its six ways without the folds); or over folds: scalability, each from the target, or sustainability, "
            "each from the result before it.",
        ),
    ] = "usual",
    size: Annotated[str, typer.Option("--size", help="pocket: tiny, default or large.")] = "default",
    seed: Annotated[int, typer.Option("--seed", help="Of the world, its models and its methods.")] = 0,
    arch: Annotated[
        str,
        typer.Option(
            "--arch", help="llama or moe, for models of pocket and tofu that are trained from scratch."
        ),
    ] = "llama",
    data: Data = None,
    split: Split = None,
    authors: Authors = None,
    numbers: Numbers = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="tofu, muse: a hub id or folder to fine-tune target and gold from. Default: a small model from scratch.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="tofu, muse: a model that has learned everything already.")
    ] = None,
    gold: Annotated[
        str | None, typer.Option("--gold", help="tofu, muse: a model that never saw what is to be forgotten.")
    ] = None,
    template: Template = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Methods run side by side. Default: one per core.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Models, methods, measurements, attacks, and one report over all of them. Everything finished is reused."""
    from expunge.cli import show
    from expunge.config import apply_overrides
    from expunge.errors import ConfigError, did_you_mean
    from expunge.run.bench import MUSE, POCKET, TOFU, bench_muse, bench_pocket, bench_tofu

    tables = {"pocket": POCKET, "tofu": TOFU, "muse": MUSE}
    if name not in tables:
        raise ConfigError(
            f"unknown benchmark '{name}'.{did_you_mean(name, tables)} There are {', '.join(tables)}."
        )
    if numbers and name != "muse":
        raise ConfigError(
            f"--set: bench {name} takes none. Its options stand beside it, such as --size and --split."
        )
    given = {
        "data": data, "split": split, "authors": authors, "model": model, "target": target, "gold": gold, "template": template,
    }  # fmt: skip
    taken = {"pocket": set(), "tofu": set(given), "muse": {"data", "model", "target", "gold"}}[name]
    for option, value in given.items():
        if value is not None and option not in taken:
            raise ConfigError(f"--{option}: bench {name} does not take it. See `expunge bench --help`.")
    chosen = tuple(methods.split(",")) if methods is not None else tables[name]
    out = out or Path("runs") / name
    protocol = "" if protocol in ("usual", "six") else protocol
    common: dict[str, Any] = {
        "seed": seed,
        "methods": chosen,
        "protocol": protocol,
        "workers": workers,
        "tell": show.tell,
    }
    models: dict[str, Any] = {"data": data, "model": model, "target": target, "gold": gold}
    if name == "pocket":
        made = bench_pocket(out, size=size, arch=arch, **common)
    elif name == "tofu":
        made = bench_tofu(
            out, split=split or "forget10", authors=authors, template=template or "auto", arch=arch, **models, **common
        )  # fmt: skip
    else:
        made = bench_muse(out, options=apply_overrides({}, numbers or []), **models, **common)
    runs = [out / run for run in chosen]
    if protocol:
        results = [json.loads((run / protocol / "folds.json").read_text(encoding="utf-8")) for run in runs]
        if as_json:
            show.print_json({"protocol": protocol, "results": dict(zip(chosen, results, strict=True))})
        else:
            _print_folds(dict(zip(chosen, results, strict=True)))
        return
    if as_json:
        show.print_json({"report": str(made), "runs": [str(run) for run in runs]})
        return
    from expunge.cli.compare import compare

    compare(runs, None, False)
    show.output.print(f"\nReport: [bold]{made}[/bold]")


def _print_folds(results: dict[str, Any]) -> None:
    """All figures after each fold, method by method, with target and gold first."""
    from rich.table import Table

    from expunge.cli import show
    from expunge.reports.words import number

    first = next(iter(results.values()))
    columns = first["columns"]
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "fold", "rows", *(heading for _, heading, _ in columns)):
        table.add_column(heading, justify="left" if heading == "method" else "right")

    def add(name: str, fold: str, rows: str, figures: dict[str, Any]) -> None:
        cells = (figures.get(figure) for figure, _, _ in columns)
        table.add_row(name, fold, rows, *("n/a" if not f or f["value"] is None else number(f) for f in cells))

    for who, beside in first["beside"].items():
        add(who, "", "", beside["figures"])
    for name, result in results.items():
        for fold in result["folds"]:
            add(name, str(fold["fold"]), str(fold["forget_rows"]), fold["figures"])
    show.output.print(table)
    show.output.print(
        "\n" + "  ".join(f"{heading}: {meaning}." for _, heading, meaning in columns),
        markup=False,
        style="dim",
    )
