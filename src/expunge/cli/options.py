"""Options that several verbs share, documented once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.errors import ConfigError, did_you_mean

Benchmark = Annotated[str, typer.Option("--benchmark", help="pocket or tofu.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="pocket: the world's folder. tofu: a folder of TOFU's JSONL files, or a hub id such as locuslab/TOFU.",
    ),
]
Half = Annotated[
    str | None,
    typer.Option(
        "--half",
        help="Which half of the forget people counts: select, report or all. Default: report for pocket, all for tofu.",
    ),
]
Split = Annotated[str, typer.Option("--split", help="tofu: forget01, forget05 or forget10.")]
Authors = Annotated[int | None, typer.Option("--authors", help="tofu: a subset of so many whole authors.")]
Dialect = Annotated[
    str, typer.Option("--dialect", help="tofu: whose formulas: tofu, tofu-paper or openunlearning.")
]
Gold = Annotated[
    str | None,
    typer.Option("--gold", help="Model retrained without the forget set. Default: the world's own."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ... Default: a GPU where there is one.")
]


def open_benchmark(
    name: str, data: str | None, half: str | None, split: str, authors: int | None, dialect: str
) -> Any:
    """The benchmark that the options describe. Raises ConfigError or DataError."""
    if name not in ("pocket", "tofu"):
        raise ConfigError(
            f"--benchmark {name}: no such benchmark.{did_you_mean(name, ('pocket', 'tofu'))} There are pocket and tofu."
        )
    if half not in (None, "select", "report", "all"):
        raise ConfigError(f"--half {half}: expected select, report or all.")
    if data is None:
        raise ConfigError(
            f"--benchmark {name} needs --data: "
            + (
                "a world's folder, made by `expunge pocket --out FOLDER`."
                if name == "pocket"
                else "a folder of TOFU's files, or a hub id."
            )
        )
    from expunge.bench import open_benchmark as open_spec

    if name == "pocket":
        return open_spec(("pocket", {"folder": data, "half": half or "report"}))
    return open_spec(
        (
            "tofu",
            {"data": data, "split": split, "authors": authors, "dialect": dialect, "half": half or "all"},
        )
    )


def golds(name: str, data: str | None, gold: str | None) -> tuple[str | None, str | None]:
    """The gold and the second gold: as given, or those that lie in the world's folder."""
    folder = Path(data or ".")
    own = {
        which: str(folder / which)
        for which in ("gold", "gold2")
        if name == "pocket" and (folder / which).is_dir()
    }
    if gold is not None:
        return gold, None
    return own.get("gold"), own.get("gold2")
