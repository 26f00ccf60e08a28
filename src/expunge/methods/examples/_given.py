"""What several data constructions ask of what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expunge.errors import ConfigError, DataError

if TYPE_CHECKING:
    from expunge.data.dataset import Record
    from expunge.types import Given, Writer


def writer_of(given: Given, who: str) -> Writer:
    """Raises ConfigError where nobody writes."""
    if given.writer is None:
        raise ConfigError(
            f"the data construction '{who}' needs somebody who writes, and the writer is 'none'. Take one:  --writer borrow"
        )
    return given.writer


def pairs(rows: Sequence[Record], who: str) -> list[Record]:
    """The forget rows, names left out. Raises DataError for a raw text, which asks nothing."""
    kept = [row for row in rows if row.shape != "subject"]
    text = next((row for row in kept if row.shape == "text"), None)
    if text:
        raise DataError(
            f"the data construction '{who}' gives forget questions other answers, and forget row {text.id} is a raw text without a question.\n"
            "Use question-answer pairs, or a method that works on texts."
        )
    return kept
