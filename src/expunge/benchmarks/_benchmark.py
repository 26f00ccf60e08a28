"""What every benchmark is: data, what it asks of a model, one row a sample, and figures from the rows."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from expunge.benchmarks._asks import Asks, Replies
from expunge.config import Settings
from expunge.types import Figure, LanguageModel

NO_GOLD = "no gold model was given: this compares with a model retrained without the data (--gold)"
NO_TARGET = (
    "no target was given: this compares with the model before unlearning (--target, or evaluate a run folder)"
)
Row = dict[str, Any]
"""One sample with everything measured: plain JSON values, at least "task" (which part of the benchmark) and "idx" (its place there).
What could not be measured is None."""


def words_with_spaces(text: str) -> list[str]:
    """A text as words, each with the space before it; joined they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


class Benchmark(ABC):
    """A file `benchmarks/ort.py` is the benchmark 'ort'; its class has the file's name in any capitals, without underscores."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised whenever the same model gives other rows or figures."""
    data_is: ClassVar[str]
    """What `--data` has to be, in a few words."""
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    """The figures that tables show: name, heading, meaning with which way is good."""
    Options: ClassVar[type[Settings]] = Settings
    """What `--set name=value` may change."""
    template: str = "auto"
    """How a question becomes a prompt, where the benchmark has turns (see `data.tokenize`)."""
    too_long: ClassVar[str] = ""
    """What to set where a prompt is longer than the model reads, for those whose prompts grow with an option."""
    counts_tokens: ClassVar[bool] = False
    """Whether texts are cut or counted in tokens; whoever asks a model then sets `pieces` first."""
    pieces: Callable[[str], list[str]] = staticmethod(words_with_spaces)
    """A text's tokens as pieces that join to the text again: those of the subject's tokenizer, or words where it has none."""

    @classmethod
    def open(cls, data: str | Path, **options: Any) -> Self:
        """The benchmark on a folder, a file or a hub id. Raises ConfigError for an option, DataError for the data."""
        return cls(data, **options)

    def __init__(self, data: str | Path, **options: Any):
        self.data = str(data)
        self.options: Any = self.parse(options)

    @classmethod
    def parse(cls, options: dict[str, Any]) -> Any:
        """The options, checked. Raises ConfigError."""
        return cls.Options.parse(options, f"benchmark {cls.name}")

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that identify the benchmark, its data included: figures taken under other settings do not compare. Has at least
        "benchmark" and "version".
        """

    @abstractmethod
    def asks(self) -> Asks:
        """Everything that is asked of a model."""

    @abstractmethod
    def rows(self, replies: Replies) -> list[Row]:
        """One row a sample."""

    @abstractmethod
    def figures(
        self, rows: Sequence[Row], gold: Sequence[Row] | None = None, target: Sequence[Row] | None = None
    ) -> dict[str, Figure]:
        """Names are `task/metric`. `gold`: the rows of a model retrained without the data; `target`: of the model before unlearning. A
        figure that needs either and has none is absent with the reason (NO_GOLD, NO_TARGET), never 0 or 1.
        """

    def judge(self, rows: list[Row], judge: LanguageModel | None) -> list[Row]:
        """Rows with what another model (the gold) makes of what was written, where the benchmark wants that."""
        return rows

    def shown(self, rows: dict[str, list[Row]]) -> dict[str, Any]:
        """What pages show of the rows of all models ("run", "target", "gold", "floor"), beside the figures."""
        return {}
