"""The nearest forget prompt against the nearest hard negative (CURaTE: Bae et al., 2026, arXiv:2604.14644).

    score(x) = f / (1 - κ + κ · r),    f = max_f cos(u(x), u(f)),    r = max_r cos(u(x), u(r)),    negative cosines count as 0

over forget prompts f and hard negatives r: retain prompts, and the forget prompts about made-up namesakes. κ = 0 is the paper's
rule, which misses most new wordings here; hard negatives carry the method. A text that is stored scores at least 1, one that is
near nothing scores 0. Nothing is trained: a removal request is its rows in a `NeighbourIndex`, where a thousand requests cost a
prompt about twice what one does.
Needs: forget and retain prompts. Where the target names are known, they are stored as prompts of their own.
Differs from the paper: hard negatives stand at run time instead of training the encoder; hashed n-grams instead of a sentence
encoder unless one is given, which is then taken as it is; long prompts are read in windows; the threshold is calibrated.
Differs from the authors' code: there the threshold is 0.8 or 0.9, set for each data set.
Fails when: a prompt shares no words with what is stored, as a reverse look-up does (a sentence encoder reaches further); a
stored text is buried in a window of other words; requests are added long after the calibration: false alarms grow with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.errors import DataError, ModelError
from expunge.guards.canonical import canonicalise
from expunge.guards.detection import DetectorSettings, windows
from expunge.guards.namesakes import namesakes
from expunge.guards.neighbours import Encoder, HashedNgrams, NeighbourIndex
from expunge.types import Seed

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel

CANARY = "Which of the two was born in the north, and who taught her to write?"
SAME = 0.999
"""Least cosine between the canary as it was stored and as it is encoded now."""


class Neighbour(DetectorSettings):
    needs: ClassVar = frozenset({"forget", "retain"})

    encoder: str | None = None
    """A sentence encoder by folder or hub id; none: hashed n-grams, which need no model."""
    contrast: float = Field(0.95, ge=0, lt=1)
    """κ: how much nearness to a hard negative takes away. 0: the paper's rule, nearness to a forget prompt alone."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedNeighbour:
        """Store the rows. Raises DataError without forget or retain prompts, ModelError where the encoder cannot be had."""
        retain = _as_read(data.retain_prompts)
        if not data.can_calibrate:
            raise DataError(
                "the neighbour detector compares with forget prompts and retain prompts, and one of them is missing.\n"
                "Give --retain rows, or detect by name alone: --set detector.name=names"
            )
        encoder = open_encoder(self.encoder, model) if self.encoder else HashedNgrams.fit(retain)
        stored: dict[str, list[str]] = {}
        for row in data.forget:
            if row.shape != "subject":
                owner = row.group or row.subject or row.id
                stored.setdefault(owner, []).extend(_as_read([row.question or row.text]))
        for name in data.names:
            stored.setdefault(name, []).extend(_as_read([name]))
        forget, hard = NeighbourIndex(encoder), NeighbourIndex(encoder)
        for owner, texts in stored.items():
            forget.add(owner, list(dict.fromkeys(texts)))
        if self.contrast:
            rng = np.random.default_rng(Seed(data.seed).child("namesakes").number)
            known = [text for texts in stored.values() for text in texts]
            made = namesakes(known, _as_read(data.names), rng)
            hard.add("", list(dict.fromkeys([*retain, *made])))
        return FittedNeighbour(forget, hard, self.contrast)


class FittedNeighbour:
    def __init__(self, forget: NeighbourIndex, hard: NeighbourIndex, contrast: float):
        self.forget, self.hard, self.contrast = forget, hard, contrast

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        encoder = self.forget.encoder
        pieces = [encoder.pieces(text) for text in texts]
        rows = encoder.encode([piece for found in pieces for piece in found])
        near, against = (np.maximum(index.nearest_rows(rows)[0], 0) for index in (self.forget, self.hard))
        scores = near / (1 - self.contrast + self.contrast * against)
        starts = np.cumsum([0, *map(len, pieces)])[:-1]
        return np.maximum.reduceat(scores, starts) if texts else scores  # NaN wins

    def state(self) -> dict[str, Any]:
        canary = NeighbourIndex(self.forget.encoder)
        canary.add("", [CANARY])
        return {
            "encoder": self.forget.encoder.state(),
            "contrast": self.contrast,
            "forget": self.forget.state(),
            "hard": self.hard.state(),
            "canary": canary.state(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedNeighbour:
        """Raises ModelError where the encoder cannot be had, or is no longer the one that the rows come from."""
        kept = state["encoder"]
        encoder = open_encoder(kept["name"], model) if "name" in kept else HashedNgrams(kept["idf"])
        forget, hard, canary = (
            NeighbourIndex.from_state(state[part], encoder) for part in ("forget", "hard", "canary")
        )
        try:
            same = canary.nearest([CANARY])[0][0] >= SAME
        except ValueError:  # vectors of another width
            same = False
        if not same:
            raise ModelError(
                f"{kept.get('name', 'the n-gram encoder')}: encodes texts otherwise than when this guard was fitted, so its stored rows mean nothing.\n"
                "Put the encoder of that time back, or fit the guard again."
            )
        return cls(forget, hard, state["contrast"])


def open_encoder(name: str, model: LanguageModel) -> Encoder:
    from expunge.guards.sentences import SentenceEncoder
    from expunge.models.reader import device_of

    return SentenceEncoder(name, device_of(model))


def _as_read(texts: Sequence[str]) -> list[str]:
    """The windows of the canonical texts: as prompts will be met."""
    return [window for text in texts for window in windows(canonicalise(text).text)]
