"""A fitted detector at work: it reads canonical text in windows, all turns of it, and its threshold carries a promise."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from pydantic import Field

from expunge import catalog
from expunge.config import Settings
from expunge.errors import DataError, ModelError
from expunge.guards.calibration import Calibration, calibrate, fixed_threshold
from expunge.guards.canonical import canonicalise
from expunge.recipes import catalog_name

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel

WINDOW, STRIDE = 40, 20  # words
_SENTENCE = re.compile(r"(?<=[.?!。？！])\s+|\n+")


class DetectorSettings(Settings):
    """What every detector's settings are built on. A detector file defines one such class, and `Fitted` + its name beside it."""

    claim: ClassVar = "suppression"
    needs: ClassVar[frozenset[str]] = frozenset()
    raw: ClassVar[bool] = False
    """Whether it reads the text as it was written, as a model does, instead of its canonical form."""
    learns: ClassVar[bool] = True
    """Whether it learns from rows. One that does not has a fixed threshold."""
    threshold: ClassVar[float] = 0.5
    """Where it flags, without a promise, when nothing can be calibrated."""

    alpha: float | None = Field(None, gt=0, lt=0.5)
    """Promised rate of misses, and of false alarms, on prompts like those given. A rate that the rows cannot bear is refused;
    None promises 0.05, or with few rows the least that they can bear, and says which."""
    calibration_share: float = Field(1 / 3, gt=0, lt=1)
    """Share of the rows of each class that are kept for calibration and never learnt from."""

    def fit(self, model: Any, data: FitData) -> Fitted:
        """Learn from the rows. Raises DataError or ConfigError where it cannot."""
        raise NotImplementedError

    def refuse_endpoint(self, model: LanguageModel) -> None:
        """Raises ModelError for a detector that looks into the model, before an endpoint that only answers."""
        if "weights" in self.needs and "weights" not in model.capabilities:
            raise ModelError(
                f"detector '{catalog_name(self)}' looks into the model, and an endpoint only answers. Give the model itself, "
                "or take a detector that reads the prompt: aliases, ngram, neighbour or classifier."
            )


class Fitted(Protocol):
    """What a detector's `fit(model, data)` gives, and `from_state(state, model, place)` gives back."""

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] higher = more likely in scope; NaN where it cannot tell, which counts as in scope."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON values and numpy arrays, nested at will. What does not fit in there lies in files of the guard's folder."""
        ...


class Detection:
    def __init__(self, settings: DetectorSettings, fitted: Fitted, calibration: Calibration):
        self.settings, self.fitted, self.calibration = settings, fitted, calibration
        self.listener: Callable[[np.ndarray], None] | None = None
        """Is told the scores on which was decided."""

    @classmethod
    def fit(cls, settings: DetectorSettings, model: LanguageModel, data: FitData) -> Detection:
        """Learn on one part of the rows, calibrate on the other. Raises DataError where there are too few of them."""
        if settings.learns and data.can_calibrate:
            learnt, kept = data.split(settings.calibration_share)
            found = cls.uncalibrated(settings, settings.fit(model, learnt))
            return cls(settings, found.fitted, calibrate(*found._both_scores(kept), settings.alpha))
        if settings.alpha is not None:
            raise DataError(
                f"detector.alpha={settings.alpha:g} promises a rate, and there is nothing to calibrate it on: "
                + (
                    "this detector learns nothing."
                    if data.can_calibrate
                    else "forget or retain prompts are missing."
                )
                + "\nLeave alpha out, or give rows and a detector that learns."
            )
        found = cls.uncalibrated(settings, settings.fit(model, data))
        return cls(settings, found.fitted, found.calibration.counted(*found._both_scores(data)))

    @classmethod
    def uncalibrated(cls, settings: DetectorSettings, fitted: Fitted) -> Detection:
        return cls(settings, fitted, fixed_threshold(settings.threshold))

    def _both_scores(self, data: FitData) -> tuple[list[float], list[float]]:
        return self.scores(data.forget_prompts).tolist(), self.scores(data.retain_prompts).tolist()

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] the highest score of any window of any reading of each text; NaN where one of them is NaN."""
        pieces = [self._pieces(text) for text in texts]
        distinct = list(dict.fromkeys(piece for found in pieces for piece in found))
        scores = dict(zip(distinct, self.fitted.scores(distinct).tolist(), strict=True)) if distinct else {}
        return np.array([np.max([scores[piece] for piece in found]) for found in pieces])  # NaN wins

    def flags(self, texts: Sequence[str]) -> list[bool]:
        scores = self.scores(texts)
        if self.listener:
            self.listener(scores)
        return self.calibration.flags(scores)

    def _pieces(self, text: str) -> list[str]:
        readings = [text]
        if not self.settings.raw:
            canonical = canonicalise(text)
            readings = [canonical.text, *canonical.views]
        return list(dict.fromkeys(piece for reading in readings for piece in pieces(reading)))

    def state(self) -> dict[str, Any]:
        return {
            "name": catalog_name(self.settings),
            "settings": self.settings.model_dump(mode="json"),
            "calibration": self.calibration.describe(),
            "state": self.fitted.state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> Detection:
        """Raises ModelError for a detector that looks into the model, before one that does not let it."""
        kind = catalog.load("detector", state["name"])
        settings = kind.parse(state["settings"], "guard")
        settings.refuse_endpoint(model)
        fitted = catalog.fitted(kind).from_state(state["state"], model, place)
        return cls(settings, fitted, Calibration.parse(state["calibration"]))


def pieces(text: str) -> list[str]:
    """The windows of a whole text, and of each of its lines alone: a turn says what it says whatever stands around it."""
    lines = [line for line in text.split("\n") if line.strip()]
    return [window for part in ([text, *lines] if len(lines) > 1 else [text]) for window in windows(part)]


def windows(text: str) -> list[str]:
    """The text itself when short; else overlapping windows of words that cover all of it, and its sentences: a long prompt hides
    nothing, and a question within one is read as if it stood alone.
    """
    words = text.split()
    if len(words) <= WINDOW:
        return [text]
    covering = [" ".join(words[i : i + WINDOW]) for i in range(0, len(words) - WINDOW + STRIDE, STRIDE)]
    sentences = [sentence for sentence in _SENTENCE.split(text) if 0 < len(sentence.split()) <= WINDOW]
    return list(dict.fromkeys([*covering, *sentences]))
