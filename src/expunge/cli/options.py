"""Options that several verbs share, documented once."""

from pathlib import Path
from typing import Annotated, Any

import typer

Benchmark = Annotated[str, typer.Option("--benchmark", help="Which one; `expunge benchmarks` lists them.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="What the benchmark reads: a folder, a file or a hub id; `expunge benchmarks NAME` says which.",
    ),
]
Numbers = Annotated[
    list[str] | None,
    typer.Option("--set", help="An option of the benchmark, as name=value. May be repeated."),
]
Half = Annotated[
    str | None,
    typer.Option(
        "--half",
        help="Which half of the forget people counts: select, report or all. Default: report for pocket, all for tofu.",
    ),
]
Split = Annotated[str | None, typer.Option("--split", help="tofu: forget01, forget05 or forget10 (default).")]
Authors = Annotated[int | None, typer.Option("--authors", help="tofu: a subset of so many whole authors.")]
Dialect = Annotated[
    str | None,
    typer.Option("--dialect", help="tofu: whose formulas: tofu (default), tofu-paper or openunlearning."),
]
Gold = Annotated[
    str | None,
    typer.Option("--gold", help="Model retrained without the forget set. Default: the world's own."),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="How a question becomes a prompt: auto (the default: the tokenizer's chat template, else qa), llama2, qa, chat.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ... Default: a GPU where there is one.")
]


def open_benchmark(name: str, data: str | None, numbers: list[str] | None = None, **options: Any) -> Any:
    """The benchmark that the options describe; those that were not given (None) take its defaults. Raises ConfigError or DataError."""
    from expunge.benchmarks._open import open_benchmark as open_by_name
    from expunge.config import apply_overrides

    given = {option: value for option, value in options.items() if value is not None}
    return open_by_name(name, data, **apply_overrides(given, numbers or []))


def golds(data: str | None, gold: str | None) -> tuple[str | None, str | None]:
    """The gold and the second gold: as given, or those that lie in the data's folder, as in a built world."""
    if gold is not None or data is None:
        return gold, None
    first, second = (Path(data) / which for which in ("gold", "gold2"))
    return str(first) if first.is_dir() else None, str(second) if second.is_dir() else None
