"""`expunge unlearn`: make an artifact."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Authors, Data, Device, Gold, Json, Split


def unlearn(
    model: Annotated[str, typer.Argument(help="The model that knows: a folder, a run, or a hub id.")],
    forget: Annotated[
        Path,
        typer.Option(
            "--forget",
            help="What must go: JSONL, CSV or Parquet with question and answer, or text, or subject.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run; it must not exist yet.")],
    method: Annotated[
        str | None,
        typer.Option("--method", help="Names joined by '+', such as npo+nll+gru, or a guard such as eco."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A preset or a YAML file, instead of --method.")
    ] = None,
    retain: Annotated[Path | None, typer.Option("--retain", help="What must stay.")] = None,
    holdout: Annotated[Path | None, typer.Option("--holdout", help="What was never trained on.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="For retrain: the model to start from.")] = None,
    refusals: Annotated[
        Path | None,
        typer.Option(
            "--refusals",
            help="Other answers for methods that need them: a file with an 'answer' or 'text' in each row.",
        ),
    ] = None,
    writer: Annotated[
        str,
        typer.Option(
            "--writer",
            help="Who writes paraphrases and other answers where a method needs them: borrow (rules on the rows), self, a model folder or hub id, http://host/v1#model, or none.",
        ),
    ] = "borrow",
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="Our field = the file's field, such as answer=reply. May be repeated."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting, such as train.learning_rate=1e-4. May be repeated."),
    ] = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Go on although forget and retain share rows.")
    ] = False,
    template: Annotated[str, typer.Option("--template", help="auto, chat, qa, llama2 or raw.")] = "auto",
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", help="Measure the trajectory on this benchmark (pocket or tofu)."),
    ] = None,
    data: Data = None,
    split: Split = "forget10",
    authors: Authors = None,
    gold: Gold = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Unlearn: new weights, an adapter, or a guard, in a run folder of its own."""
    from expunge.cli import show
    from expunge.cli.options import golds, open_benchmark
    from expunge.data.dataset import Dataset, read_rows
    from expunge.errors import ConfigError
    from expunge.recipes import read_recipe

    if (method is None) == (recipe is None):
        raise ConfigError(
            "give either --method or --recipe, for example --method npo+nll. See `expunge methods`."
        )
    made = read_recipe(recipe or method or "", settings)
    fields = dict(_pair(entry) for entry in mapping or [])
    rows = Dataset.from_files(forget, retain, holdout, mapping=fields, allow_overlap=allow_overlap)
    answers = (
        [str(row.get("answer") or row.get("text") or "") for _, row in read_rows(refusals)]
        if refusals
        else []
    )
    if refusals and not all(answers):
        raise ConfigError(f"--refusals {refusals}: every row needs an 'answer' or a 'text'.")
    probe = None
    if benchmark:
        from expunge.run.trajectory import TrajectoryProbe

        measured = open_benchmark(benchmark, data, split=split, authors=authors, template=template)
        probe = TrajectoryProbe(measured, golds(benchmark, data, gold)[0])
    from expunge.run import unlearn as make

    for warning in made.warnings:
        show.tell(f"[yellow]note:[/yellow] {warning}")
    with show.progress() as progress:
        folder = make(
            model,
            rows,
            made,
            out,
            base=base,
            refusals=answers,
            writer=writer,
            template=template,
            device=device,
            probe=probe,
            selection=rows.halves()[0] or None,
            progress=progress,
        )
    from expunge.artifacts.manifest import read_manifest

    manifest = read_manifest(folder)
    if as_json:
        show.print_json({"run": str(folder), **manifest})
        return
    show.output.print(
        f"[bold]{folder}[/bold]: {manifest['kind']} by {manifest['method']}, claim [bold]{manifest['claim']}[/bold]. {manifest['claim_means']}"
    )
    if manifest.get("names_found_in_text"):
        show.output.print(
            f"No subject was given; names found in the text: {', '.join(manifest['names_found_in_text'])}"
        )
    if calibration := (manifest.get("guard") or {}).get("calibration"):
        show.output.print(show.calibration_line(calibration))
    show.output.print(
        f"Next:  expunge evaluate {folder} --benchmark ... --gold RETRAINED_MODEL", markup=False
    )


def _pair(entry: str) -> tuple[str, str]:
    from expunge.errors import ConfigError

    field, equals, column = entry.partition("=")
    if not equals or not field or not column:
        raise ConfigError(
            f"--map {entry}: expected our field = the file's field, for example --map answer=reply."
        )
    return field, column
