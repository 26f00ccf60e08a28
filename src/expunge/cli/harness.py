"""`expunge harness`: tasks of lm-evaluation-harness on a model, an adapter, a guard or an endpoint."""

from typing import Annotated

import typer

from expunge.cli.options import Device, Json


def harness(
    run: Annotated[
        str, typer.Argument(help="A run folder, a model folder, a hub id, or http://host/v1#model.")
    ],
    tasks: Annotated[
        str, typer.Option("--tasks", help="Names of the harness's tasks, groups or tags, parted by commas.")
    ],
    include_path: Annotated[
        str | None, typer.Option("--include-path", help="A folder with task files of your own.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first so many rows of each task.")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", help="Examples before each question. Default: what the task says."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Requests put to the model together.")
    ] = 256,
    chat_template: Annotated[
        bool,
        typer.Option(
            "--chat-template", help="Ask in turns, through the model's own chat template. Endpoints need it."
        ),
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Run tasks of lm-evaluation-harness on any model or run. Needs the extra lm-eval of this package."""
    from dataclasses import asdict

    from expunge.cli import show
    from expunge.run.harness import harness as measure

    with show.progress() as progress:
        result = measure(
            run,
            [name.strip() for name in tasks.split(",") if name.strip()],
            include_path=include_path,
            limit=limit,
            shots=shots,
            batch_size=batch_size,
            chat_template=chat_template,
            device=device,
            progress=progress,
        )
    if as_json:
        figures = {name: asdict(figure) for name, figure in result["figures"].items()}
        show.print_json({**result, "figures": figures})
        return
    show.print_figures(result["figures"], f"{run} on {', '.join(result['tasks'])} ({result['harness']})")
