"""Options that several verbs share, documented once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.errors import ConfigError, did_you_mean

BENCHMARKS = {
    "pocket": "a world's folder. `expunge pocket` builds one, or finds the one that `expunge bench pocket` built, and says where it is.",
    "tofu": "a folder of TOFU's JSONL files, or a hub id such as locuslab/TOFU.",
}
"""Name, and what its --data is."""

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
Template = Annotated[
    str,
    typer.Option(
        "--template",
        help="tofu: how a question becomes a prompt: auto (the tokenizer's chat template, else qa), llama2, qa, chat.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ... Default: a GPU where there is one.")
]


def open_benchmark(
    name: str,
    data: str | None,
    *,
    half: str | None = None,
    split: str = "forget10",
    authors: int | None = None,
    dialect: str = "tofu",
    template: str = "auto",
) -> Any:
    """The benchmark that the options describe. Raises ConfigError or DataError."""
    if name not in BENCHMARKS:
        raise ConfigError(
            f"unknown benchmark '{name}'.{did_you_mean(name, BENCHMARKS)} There are pocket and tofu."
        )
    if half not in (None, "select", "report", "all"):
        raise ConfigError(f"--half {half}: expected select, report or all.")
    if data is None:
        raise ConfigError(f"{name} needs --data: {BENCHMARKS[name]}")
    from expunge.run.bench import open_benchmark as open_spec

    if name == "pocket":
        return open_spec(("pocket", {"folder": data, "half": half or "report"}))
    chosen = {
        "split": split,
        "authors": authors,
        "dialect": dialect,
        "half": half or "all",
        "template": template,
    }
    return open_spec(("tofu", {"data": data, **chosen}))


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
