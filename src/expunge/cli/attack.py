"""`expunge attack`: try to get the knowledge back."""

from typing import Annotated

import typer

from expunge.cli.options import Authors, Benchmark, Data, Device, Dialect, Gold, Half, Json, Split, Template


def attack(
    run: Annotated[str, typer.Argument(help="A run folder, a model folder, or a hub id.")],
    benchmark: Benchmark,
    name: Annotated[str, typer.Option("--attack", help="Which attack.")] = "prefill",
    data: Data = None,
    gold: Gold = None,
    half: Half = None,
    split: Split = None,
    authors: Authors = None,
    dialect: Dialect = None,
    template: Template = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A number of the attack, such as learning_rate=1e-5. May be repeated."),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Share of the forget facts that come back, beside the gold's own share."""
    from expunge.cli import show
    from expunge.cli.options import golds, open_benchmark
    from expunge.config import apply_overrides
    from expunge.run import attack as run_attack

    opened = open_benchmark(
        benchmark, data, half=half, split=split, authors=authors, dialect=dialect, template=template
    )
    retrained, second = golds(data, gold)
    numbers = apply_overrides({}, settings or [])
    result = run_attack(run, opened, name, settings=numbers, gold=retrained, floor=second, device=device)
    if as_json:
        show.print_json(result)
        return
    show.print_figures(result["figures"], f"{name} on {run}")
