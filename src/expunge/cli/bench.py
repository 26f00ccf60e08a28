"""`expunge bench`: a benchmark from end to end, with one report."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Authors, Data, Json, Split, Template


def bench(
    name: Annotated[str, typer.Argument(help="pocket or tofu.")] = "pocket",
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs and the report.")] = Path(
        "runs/pocket"
    ),
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="Comma-separated presets or method strings. Default: the benchmark's table."
        ),
    ] = None,
    size: Annotated[str, typer.Option("--size", help="pocket: tiny, default or large.")] = "default",
    seed: Annotated[int, typer.Option("--seed", help="Of the world, its models and its methods.")] = 0,
    arch: Annotated[
        str, typer.Option("--arch", help="llama or moe, for models that are trained from scratch.")
    ] = "llama",
    data: Data = None,
    split: Split = None,
    authors: Authors = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="tofu: a hub id or folder to fine-tune target and gold from. Default: a small model from scratch.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="tofu: a model that has learned all authors already.")
    ] = None,
    gold: Annotated[
        str | None, typer.Option("--gold", help="tofu: a model that never saw the forget authors.")
    ] = None,
    template: Template = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Methods run side by side. Default: one per core.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Models, methods, measurements, attacks, and one report over all of them. Everything finished is reused."""
    from expunge.cli import show
    from expunge.errors import ConfigError, did_you_mean
    from expunge.run.bench import POCKET, TOFU, bench_pocket, bench_tofu

    if name == "pocket":
        chosen = tuple(methods.split(",")) if methods else POCKET
        page = bench_pocket(
            out, size=size, seed=seed, arch=arch, methods=chosen, workers=workers, tell=show.tell
        )
    elif name == "tofu":
        chosen = tuple(methods.split(",")) if methods else TOFU
        page = bench_tofu(
            out,
            data=data,
            split=split or "forget10",
            authors=authors,
            model=model,
            target=target,
            gold=gold,
            template=template or "auto",
            arch=arch,
            seed=seed,
            methods=chosen,
            workers=workers,
            tell=show.tell,
        )
    else:
        raise ConfigError(
            f"unknown benchmark '{name}'.{did_you_mean(name, ('pocket', 'tofu'))} There are pocket and tofu."
        )
    if as_json:
        show.print_json({"report": str(page), "runs": [str(out / run) for run in chosen]})
        return
    from expunge.cli.compare import compare

    compare([out / run for run in chosen], None, False)
    show.output.print(f"\nReport: [bold]{page}[/bold]")
