"""Whole names and aliases, found as they are: what a request that names somebody needs (DRAGON's name match, arXiv:2511.05784).

    score(x) = 1 if a whole name or alias stands in x, else 0

Needs: names: a `subject` field in the forget rows, or rows that give nothing else.
Differs from the paper: it is one part of DRAGON's detector, on its own.
Differs from the authors' code: code not read.
Fails when: the name is misspelt, translated, described, or only half given; it never raises a false alarm on a namesake's half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from expunge.errors import DataError
from expunge.guards.detection import DetectorSettings
from expunge.guards.target_names import TargetNames

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel


class Names(DetectorSettings):
    needs: ClassVar = frozenset({"subject"})
    learns: ClassVar = False

    def fit(self, model: LanguageModel, data: FitData) -> FittedNames:
        """Nothing is learned. Raises DataError without names."""
        if not data.names:
            raise DataError(
                "the names detector has no name to look for. Add a 'subject' (and 'aliases') to the forget rows."
            )
        return FittedNames(data.names)


class FittedNames:
    def __init__(self, names: Sequence[str]):
        self.names = TargetNames(names)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([float(self.names.mentions(text)) for text in texts])

    def state(self) -> dict[str, Any]:
        return {"names": list(self.names.names)}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedNames:
        return cls(state["names"])
