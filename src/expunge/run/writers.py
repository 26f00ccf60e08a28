"""Who writes the texts that a data construction asks for, by the word that a user gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expunge.types import LanguageModel, Writer

if TYPE_CHECKING:
    from expunge.data.dataset import Record


def open_writer(name: str, target: LanguageModel, rows: Sequence[Record], seed: int) -> Writer | None:
    """borrow: rules on `rows`; self: the `target` as it stands; none: nobody; a model folder or hub id; http(s)://host/v1#model.

    Raises ConfigError for an address without a model's name, ModelError for a model that is not there.
    """
    from expunge.data.writers import Borrow, ModelWriter

    if name == "none":
        return None
    if name == "borrow":
        return Borrow(rows)
    if name == "self":
        return ModelWriter(target, seed=seed)
    from expunge.run.make import load

    return ModelWriter(load(name), seed=seed)
