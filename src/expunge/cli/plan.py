"""`expunge plan`: what a run will take, before it is started."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Device, Json


def plan(
    model: Annotated[str, typer.Argument(help="A model folder or a hub id; its weights are not loaded.")],
    forget: Annotated[Path, typer.Option("--forget", help="What must go.")],
    method: Annotated[
        str, typer.Option("--method", help="As for unlearn: names joined by '+', or a preset.")
    ],
    retain: Annotated[Path | None, typer.Option("--retain", help="What must stay.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, such as train.epochs=3. May be repeated."),
    ] = None,
    template: Annotated[str, typer.Option("--template", help="auto, chat, qa, llama2 or raw.")] = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Estimate passes, time and memory of a training method from counts, without running it."""
    from expunge.cli import show
    from expunge.data.dataset import Dataset
    from expunge.recipes import read_recipe
    from expunge.run.plan import plan as estimate

    found = estimate(
        model,
        Dataset.from_files(forget, retain, allow_overlap=True),
        read_recipe(method, settings),
        template=template,
        device=device,
    )
    if as_json:
        show.print_json(found)
        return
    show.output.print(
        f"[bold]{found['method']}[/bold] on {found['parameters'] / 1e6:,.1f} M parameters, {found['trained'] / 1e6:,.1f} M of them trained: "
        f"{found['steps']} steps, {found['tokens']:,} tokens, and {found['reference_tokens']:,} once by the starting model."
    )
    show.output.print(
        f"{found['operations']:.2e} operations at {found['operations_per_second']:.1e} a second here: about {found['seconds']:.0f} s; "
        "more for small models and short rows."
    )
    parts = ", ".join(f"{name} {size:,.0f}" for name, size in found["mib"].items())
    show.output.print(f"Memory, MiB: {parts}; together about {sum(found['mib'].values()):,.0f}.")
