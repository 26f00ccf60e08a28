"""`expunge unlearn`: make an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.options import Authors, Data, Device, Gold, Json, Split

if TYPE_CHECKING:
    from expunge.recipes import Recipe

Model = Annotated[str, typer.Argument(help="The model that knows: a folder, a run, or a hub id.")]
Forget = Annotated[
    Path,
    typer.Option(
        "--forget", help="What must go: JSONL, CSV or Parquet with question and answer, or text, or subject."
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the run; it must not exist yet.")]
Recipes = Annotated[
    str | None, typer.Option("--recipe", help="A preset or a YAML file, instead of --method.")
]
Retain = Annotated[Path | None, typer.Option("--retain", help="What must stay.")]
Refusals = Annotated[
    Path | None,
    typer.Option(
        "--refusals",
        help="Other answers for methods that need them: a file with an 'answer' or 'text' in each row.",
    ),
]
Writer = Annotated[
    str,
    typer.Option(
        "--writer",
        help="Who writes paraphrases and other answers where a method needs them: borrow (rules on the rows), self, a model folder or hub id, http://host/v1#model, or none.",
    ),
]
Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", help="Our field = the file's field, such as answer=reply. May be repeated."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting, such as train.learning_rate=1e-4. May be repeated."),
]
Overlap = Annotated[
    bool, typer.Option("--allow-overlap", help="Go on although forget and retain share rows.")
]
Prompts = Annotated[str, typer.Option("--template", help="auto, chat, qa, llama2 or raw.")]


def unlearn(
    model: Model,
    forget: Forget,
    out: Out,
    method: Annotated[
        str | None,
        typer.Option("--method", help="Names joined by '+', such as npo+nll+gru, or a guard such as eco."),
    ] = None,
    recipe: Recipes = None,
    retain: Retain = None,
    holdout: Annotated[Path | None, typer.Option("--holdout", help="What was never trained on.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="For retrain: the model to start from.")] = None,
    refusals: Refusals = None,
    writer: Writer = "borrow",
    mapping: Mapping = None,
    settings: Settings = None,
    allow_overlap: Overlap = False,
    template: Prompts = "auto",
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", help="Measure the trajectory on this benchmark (pocket, tofu or muse)."),
    ] = None,
    data: Data = None,
    split: Split = None,
    authors: Authors = None,
    gold: Gold = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Unlearn: new weights, an adapter, or a guard, in a run folder of its own."""
    from expunge.cli.options import golds, open_benchmark

    made = chosen(method, recipe, settings)
    probe = None
    if benchmark:
        from expunge.run.measuring import count_tokens_of
        from expunge.run.trajectory import probe_of

        measured = open_benchmark(
            benchmark, data, split=split, authors=authors, template=None if template == "auto" else template
        )
        count_tokens_of(model, measured)
        probe = probe_of(measured, golds(data, gold)[0])
    make_run(
        model, made, out, forget, retain, holdout, base=base, refusals=refusals, writer=writer, mapping=mapping,
        allow_overlap=allow_overlap, template=template, device=device, probe=probe, as_json=as_json,
    )  # fmt: skip


def chosen(method: str | None, recipe: str | None, settings: list[str] | None) -> Recipe:
    """The recipe that the options name. Raises ConfigError unless it is named once."""
    from expunge.errors import ConfigError
    from expunge.recipes import read_recipe

    if (method is None) == (recipe is None):
        raise ConfigError(
            "give either --method or --recipe, for example --method npo+nll. See `expunge methods`."
        )
    return read_recipe(recipe or method or "", settings)


def make_run(
    model: str,
    made: Recipe,
    out: Path,
    forget: Path,
    retain: Path | None,
    holdout: Path | None = None,
    *,
    refusals: Path | None,
    mapping: list[str] | None,
    allow_overlap: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Read the files, make the run with these `options` of `run.unlearn`, and say what was made."""
    from expunge.cli import show
    from expunge.data.dataset import Dataset, read_rows
    from expunge.errors import ConfigError
    from expunge.run import unlearn as make

    rows = Dataset.from_files(forget, retain, holdout, mapping=pairs(mapping), allow_overlap=allow_overlap)
    answers = (
        [str(row.get("answer") or row.get("text") or "") for _, row in read_rows(refusals)]
        if refusals
        else []
    )
    if refusals and not all(answers):
        raise ConfigError(f"--refusals {refusals}: every row needs an 'answer' or a 'text'.")
    for warning in made.warnings:
        show.tell(f"[yellow]note:[/yellow] {warning}")
    with show.progress() as progress:
        folder = make(
            model,
            rows,
            made,
            out,
            refusals=answers,
            selection=rows.halves()[0] or None,
            progress=progress,
            **options,
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
        from expunge.reports.words import calibration_sentence

        show.output.print(calibration_sentence(calibration))
    show.output.print(
        f"Next:  expunge evaluate {folder} --benchmark ... --gold RETRAINED_MODEL", markup=False
    )


def pairs(mapping: list[str] | None) -> dict[str, str]:
    """What --map says: our fields, and the file's. Raises ConfigError."""
    from expunge.errors import ConfigError

    found = {}
    for entry in mapping or []:
        field, equals, column = entry.partition("=")
        if not equals or not field or not column:
            raise ConfigError(
                f"--map {entry}: expected our field = the file's field, for example --map answer=reply."
            )
        found[field] = column
    return found
