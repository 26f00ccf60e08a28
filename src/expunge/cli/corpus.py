"""`expunge corpus`: forget rows about names, written by the model itself."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Device, Json


def corpus(
    model: Annotated[
        str, typer.Argument(help="The model that knows: a folder, a run, a hub id or an endpoint.")
    ],
    forget: Annotated[Path, typer.Option("--forget", help="The names: rows with a 'subject'.")],
    out: Annotated[Path, typer.Option("--out", help="The JSONL file to write; it must not exist yet.")],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="positive (texts, for ga and npo), pair (a true and a made-up text, for dpo+alternates), or reject (questions with a refusal, for imitate+alternates).",
        ),
    ] = "positive",
    count: Annotated[int, typer.Option("--count", min=1, help="Rows a name.")] = 16,
    tokens: Annotated[
        int,
        typer.Option("--tokens", min=8, help="Most tokens of a text; at most half of the model's context."),
    ] = 512,
    refusals: Annotated[
        Path | None,
        typer.Option(
            "--refusals",
            help="For reject: a file with an 'answer' or 'text' in each row. Default: ten built-in ones.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other texts.")] = 0,
    template: Annotated[str, typer.Option("--template", help="auto, chat, qa, llama2 or raw.")] = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write a forget corpus where only names are given: the model tells what it knows about each of them."""
    from expunge.cli import show
    from expunge.data.dataset import read_records, read_rows
    from expunge.errors import ConfigError
    from expunge.methods.examples.refusals import BUILT_IN
    from expunge.run.corpus import write_corpus

    said = (
        [str(row.get("answer") or row.get("text") or "") for _, row in read_rows(refusals)]
        if refusals
        else list(BUILT_IN)
    )
    if not said or not all(said):
        raise ConfigError(f"--refusals {refusals}: every row needs an 'answer' or a 'text'.")
    with show.progress() as progress:
        rows = write_corpus(
            model, read_records(forget), kind, out, count=count, tokens=tokens, refusals=said, seed=seed,
            template=template, device=device, progress=progress,
        )  # fmt: skip
    if as_json:
        show.print_json({"corpus": str(out), "kind": kind, "rows": rows})
        return
    methods = {"positive": "npo", "pair": "dpo+alternates", "reject": "imitate+alternates"}
    show.output.print(f"[bold]{out}[/bold]: {rows} rows, {kind}.")
    show.output.print(
        f"Next:  expunge unlearn {model} --method {methods[kind]} --forget {out} --out ...", markup=False
    )
