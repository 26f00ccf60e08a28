"""From a name and data to a benchmark that is ready to be asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from expunge.benchmarks._benchmark import Benchmark
    from expunge.benchmarks._qa_benchmark import QABenchmark


def open_benchmark(name: str, data: str | Path | None, **options: Any) -> Benchmark:
    """Raises ConfigError for a benchmark or option that there is not, DataError for data that cannot be read."""
    known = catalog.entries("benchmark")
    if name not in known:
        raise ConfigError(
            f"unknown benchmark '{name}'.{did_you_mean(name, known)} There are {', '.join(known)}; `expunge benchmarks` says what they ask."
        )
    kind: type[Benchmark] = catalog.load("benchmark", name)
    if data is None:
        raise ConfigError(f"{name} needs --data: {kind.data_is}.")
    return kind.open(data, **options)


def open_origin(data: str | Path, **options: Any) -> QABenchmark:
    """The question-answer benchmark whose facts another one asks in its own way: a pocket world's folder, else TOFU's files or hub id."""
    from expunge.benchmarks.pocket import Pocket
    from expunge.benchmarks.tofu import Tofu

    kind = Pocket if (Path(data) / "world.json").is_file() else Tofu
    return kind.open(data, **options)
