"""`expunge attack`: try to get the knowledge back."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Authors, Data, Device, Dialect, Gold, Half, Json, Split, Template
from expunge.cli.unlearn import Mapping


def attack(
    run: Annotated[
        str | None, typer.Argument(help="A run folder, a model folder, a hub id, or http://host/v1#model.")
    ] = None,
    suite: Annotated[str, typer.Option("--suite", help="quick (seconds), standard, or full.")] = "standard",
    only: Annotated[
        str | None,
        typer.Option(
            "--only", help="Attacks by number or name, with commas: A08,W2,prefill. In place of a suite."
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show all attacks and stop.")] = False,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            help="Whose questions are asked: pocket or tofu. Default: of the world that the run was made in.",
        ),
    ] = None,
    data: Data = None,
    forget: Annotated[
        Path | None, typer.Option("--forget", help="One's own forget rows, in place of a benchmark.")
    ] = None,
    retain: Annotated[Path | None, typer.Option("--retain", help="One's own rows that must stay.")] = None,
    mapping: Mapping = None,
    gold: Gold = None,
    target: Annotated[
        str | None, typer.Option("--target", help="The model before unlearning. A run folder knows its own.")
    ] = None,
    half: Half = None,
    split: Split = None,
    authors: Authors = None,
    dialect: Dialect = None,
    template: Template = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A number of an attack, such as relearning.steps=50. May be repeated."),
    ] = None,
    helper: Annotated[
        str | None,
        typer.Option(
            "--helper",
            help="A model (folder, hub id or address) that rewords and translates questions; without one, rules do.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the report here: a .json file, or a page as .html."),
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave names, facts and what was written out of the page.")
    ] = False,
    limit: Annotated[
        float | None,
        typer.Option(
            "--limit",
            help="For CI: exit code 1 unless the audit shows that at most this share of the facts comes back, such as 0.05.",
        ),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Try to get the knowledge back: a suite of attacks beside the same attacks on target and gold, and a verdict a tier."""
    from expunge.cli import show
    from expunge.cli.auditing import (
        check_facts,
        check_limit,
        check_out,
        check_run,
        print_audit,
        print_list,
        rows_to_attack,
        words_of,
    )
    from expunge.cli.options import golds
    from expunge.config import apply_overrides
    from expunge.errors import ConfigError
    from expunge.run.audit import attack as run_attack
    from expunge.run.choosing import chosen, listed

    if listing:
        print_list(listed(), as_json=as_json, run=run)
        return
    if run is None:
        raise ConfigError(
            "expunge attack RUN: which run or model? `expunge attack --list` shows all attacks."
        )
    check_out(out)
    check_limit(limit)
    words, numbers = words_of(only), apply_overrides({}, settings or [])
    attacks = chosen(suite, words, numbers)
    check_run(run, target)
    rows, data = rows_to_attack(
        run,
        benchmark,
        data,
        forget,
        retain,
        half=half,
        split=split,
        authors=authors,
        dialect=dialect,
        template=template,
        mapping=mapping,
    )
    check_facts(rows, attacks)
    retrained, second = golds(data, gold)
    with show.progress() as progress:
        result = run_attack(
            run,
            rows,
            words,
            suite=suite,
            settings=numbers,
            gold=retrained,
            floor=second,
            target=target,
            helper=helper,
            seed=seed,
            device=device,
            progress=progress,
            **({"template": template} if template else {}),
        )
    if not print_audit(run, result, out, redact=redact, as_json=as_json, limit=limit):
        raise typer.Exit(1)
