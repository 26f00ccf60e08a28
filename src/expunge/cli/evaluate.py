"""`expunge evaluate`: figures of a model or run on a benchmark."""

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
    from expunge.run import evaluate as measure

    opened = open_benchmark(
        benchmark, data, numbers, half=half, split=split, authors=authors, dialect=dialect, template=template
    )
    first, second = golds(data, gold)
    with show.progress() as progress:
        result = measure(run, opened, gold=first, floor=second, device=device, progress=progress)
    if as_json:
        show.print_json(result)
        return
    show.print_figures(
        result["figures"],
        f"{run} on {benchmark} ({', '.join(f'{k} {v}' for k, v in opened.settings.items() if not isinstance(v, dict))})",
    )
    floor = result["beside"].get("floor", {}).get("forget_quality/ks_distance")
    if floor:
        show.output.print(
            f"\nNoise floor: a second gold is {floor['value']:.3f} from the first in KS distance."
        )
