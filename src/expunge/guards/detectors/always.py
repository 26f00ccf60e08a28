"""Always: every prompt counts as in scope, for methods that were published without a detector (no paper).

    score(x) = 1

Needs: nothing.
Differs from the paper: no paper; what is left of a guard when nothing decides.
Differs from the authors' code: no code.
Fails when: judged by what it leaves alone: there is nothing that it leaves alone, and every retain prompt is a false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from expunge.guards.detection import DetectorSettings

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel


class Always(DetectorSettings):
    needs: ClassVar = frozenset()
    learns: ClassVar = False

    def fit(self, model: LanguageModel, data: FitData) -> FittedAlways:
        """Nothing is learned."""
        return FittedAlways()


class FittedAlways:
    def scores(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones(len(texts))

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedAlways:
        return cls()
