"""`expunge evaluate`: figures of a model or run on a benchmark."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import (
    Authors,
    Benchmark,
    Data,
    Device,
    Dialect,
    Gold,
    Half,
    Json,
    Numbers,
    Split,
    Template,
)


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder, a model folder, or a hub id.")],
    benchmark: Benchmark,
    data: Data = None,
    gold: Gold = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="The model before unlearning. Default: what a run folder was made from."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Also keep the result in this .json file, its rows as .parquet beside it."
        ),
    ] = None,
    half: Half = None,
    split: Split = None,
    authors: Authors = None,
    dialect: Dialect = None,
    template: Template = None,
    numbers: Numbers = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a run against a model retrained without the data; a run folder keeps the result."""
    from expunge.cli import show
    from expunge.cli.options import golds, open_benchmark
    from expunge.errors import ConfigError
    from expunge.reports.words import plain_settings
    from expunge.run import evaluate as measure

    if out and out.suffix != ".json":
        raise ConfigError(f"--out {out}: expected a file that ends in .json.")
    opened = open_benchmark(
        benchmark, data, numbers, half=half, split=split, authors=authors, dialect=dialect, template=template
    )
    first, second = golds(data, gold)
    with show.progress() as progress:
        result = measure(
            run,
            opened,
            gold=first,
            floor=second,
            target=target,
            out=out,
            device=device,
            progress=progress,
        )
    if as_json:
        show.print_json(result)
        return
    show.print_figures(
        result["figures"],
        f"{run} on {opened.name} ({', '.join(f'{k} {v}' for k, v in plain_settings(opened.settings).items())})",
    )
    floor = result["beside"].get("floor", {}).get("forget_quality/ks_distance")
    if floor:
        show.output.print(
            f"\nNoise floor: a second gold is {floor['value']:.3f} from the first in KS distance."
        )
