"""O3: one orthogonal adapter for each request, weighed by how much the prompt looks like that request (Gao et al., 2024, arXiv:2407.10223).

    h' = W h + Σ_t w_t(x) · s · B_t A_t h
    w_t = σ(ζ c_t - 2),   c = 1 - | F(q) - F(m₁ + m₂ - q) |,   F = ½ Φ((q - m₁)/σ) + ½ Φ((q - m₂)/σ)

q is the score of the request's own detector, m₁ its mean on the prompts that it learnt from, m₂ and σ mean and spread on prompts
that were kept from it. The adapters learn random labels in place of the answers; their A are held orthogonal to each other.
Needs: the model's weights, and question-answer pairs in groups (or with a subject), some for each request's detector to keep.
Differs from the paper: the guard's detector decides who meets any adapter at all. A prompt that it flags never runs clean: where
no request's weight reaches a half, all adapters act in full.
Differs from the authors' code: an adapter per request, where theirs is one that all requests have changed, so a match with
one brings the effect of all; w is 0 far away and falls all the way, theirs never below 0.12 without gates
tuned on the test; c is 1 on the inner side too; below a calibrated score w is 0.
Fails when: the guard's detector misses a prompt, or two requests share a topic; whoever holds the weights takes the adapters off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from expunge import catalog
from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.guards.calibration import USUAL, least_rate
from expunge.guards.detection import Detection
from expunge.models.scaled_adapters import Adapter, ScaledAdapters, read_adapter
from expunge.types import Example, Generation, GenerationParams, Prompt, Score

if TYPE_CHECKING:
    from pathlib import Path

    from expunge.data.dataset import Record
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM

METHOD = "imitate+random_labels+orthogonal+continual"
PART = "adapters"
"""The run within the guard's folder that holds the adapters."""
LEAST = 0.5
"""Where all weights of a flagged prompt lie below this, nobody can say which request it belongs to: all of them act in full."""


class O3(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"pairs", "weights"})
    trains: ClassVar = True

    requests: int = Field(3, ge=1)
    """How many requests the forget rows are cut into, by whole groups in their order."""
    mixing: Literal["soft", "hard"] = "soft"
    """soft: w as above. hard: 1 from the calibrated score of a request's detector on, else 0."""
    detector: dict[str, Any] = {"name": "contrastive_entropy"}
    """Name and settings of the detector that each request gets of its own."""
    adapter: dict[str, Any] = {}
    """Settings of the orthogonal adapters: rank, alpha, targets, weight."""

    def fit(self, model: TransformerLM, data: FitData) -> FittedO3:
        """Train the adapters and fit a detector for each. Raises ConfigError or DataError where it cannot."""
        values = dict(self.detector)
        if not (name := values.pop("name", None)):
            raise ConfigError(
                f"action o3: detector has no name. {self.detector} needs one: name: contrastive_entropy"
            )
        settings = catalog.load("detector", name).parse(values, f"action o3, detector {name}")
        parts = cut([row for row in data.forget if row.shape != "subject"], self.requests)
        requests = [
            fit_request(settings, model, share(data, rows, number)) for number, rows in enumerate(parts, 1)
        ]
        data.make(PART, METHOD, procedure={"requests": self.requests}, adapter=self.adapter)
        return FittedO3(self.mixing, requests, read_adapters(data.place.folder, model, self.requests))


def cut(rows: Sequence[Record], requests: int) -> list[list[Record]]:
    """The rows of each request, whole groups in their order: as `continual` trains them. Raises DataError with too few groups."""
    groups = list(dict.fromkeys(row.group or row.id for row in rows))
    if len(groups) < requests:
        raise DataError(
            f"action.requests is {requests}, but the forget rows belong to {len(groups)} group{'s' * (len(groups) != 1)}.\n"
            "Ask for fewer requests, or say which rows belong together by a field 'group' or 'subject' in each."
        )
    number = {group: i for i, group in enumerate(groups)}
    bounds = [len(groups) * k // requests for k in range(requests + 1)]
    return [
        [row for row in rows if first <= number[row.group or row.id] < end] for first, end in pairwise(bounds)
    ]


def share(data: FitData, rows: Sequence[Record], number: int) -> FitData:
    """What one request's detector is fitted on: its own rows and names, in a place of its own."""
    texts = [f"{row.question} {row.answer} {row.text}" for row in rows]
    own = {name for row in rows for name in (row.subject, *row.aliases)}
    names = [name for name in data.names if name in own or any(name in text for text in texts)]
    place = data.place._replace(folder=data.place.folder / _folder(number))

    def make(part: str, *chosen: Any, **settings: Any) -> Path:
        return data.make(f"{_folder(number)}/{part}", *chosen, **settings)

    return replace(data, forget=rows, names=names, place=place, make=make)


def _folder(number: int) -> str:
    return f"request-{number}"


def read_adapters(folder: Path, model: TransformerLM, requests: int) -> list[Adapter]:
    """Those of the run in the guard's folder, request by request; the first lies where a single one would."""
    first = folder / PART / "adapter"
    later = [first / _folder(number) for number in range(2, requests + 1)]
    return [read_adapter(path, model.model) for path in (first, *later)]


# --- the weight of one request ---------------------------------------------------------------------------------------------------
class Request(NamedTuple):
    """One request's detector, and how prompts of the request score under it."""

    detection: Detection
    learnt: float
    """m₁"""
    kept: float
    """m₂"""
    spread: float
    """σ"""
    least: float
    """Below this score the request does not match."""

    def weights(self, scores: np.ndarray, mixing: str) -> np.ndarray:
        """[n] w; 1 for a score that is not a number."""
        soft = soft_weight(scores, self.learnt, self.kept, self.spread) if mixing == "soft" else 1.0
        return np.where(np.isnan(scores), 1.0, np.where(scores < self.least, 0.0, soft))


def fit_request(settings: Any, model: TransformerLM, data: FitData) -> Request:
    """Raises DataError where fewer than two prompts are kept from the detector."""
    learn, keep = data.split(settings.calibration_share)
    too_few = DataError(
        f"{len(data.forget_prompts)} different prompts in a request are too few: at least two have to be kept from its detector.\n"
        "Cut the forget rows into fewer requests: --set action.requests=1"
    )
    if len(keep.forget_prompts) < 2:
        raise too_few
    detection = Detection.uncalibrated(settings, settings.fit(model, learn))
    learnt, kept = (detection.scores(part.forget_prompts) for part in (learn, keep))
    kept = kept[~np.isnan(kept)]  # a prompt that cannot be told says nothing about the others
    if len(kept) < 2:
        raise too_few
    rate = settings.alpha or max(USUAL, least_rate(len(kept)))
    rank = max(math.floor(rate * (len(kept) + 1)), 1)
    spread = max(float(kept.std(ddof=1)), 1e-6)  # a detector that knows no degrees gives all of them the same
    return Request(
        detection, float(np.nanmean(learnt)), float(kept.mean()), spread, float(np.sort(kept)[rank - 1])
    )


def agreement(q: np.ndarray, m1: float, m2: float, sigma: float) -> np.ndarray:
    """Of q with the mixture, c in [0, 1]: 1 at the centre of the mixture, 0 far away on either side."""
    erf = np.vectorize(math.erf, otypes=[float])

    def below(x: np.ndarray) -> np.ndarray:
        return 0.5 + 0.25 * (erf((x - m1) / sigma / math.sqrt(2)) + erf((x - m2) / sigma / math.sqrt(2)))

    return 1 - np.abs(below(q) - below(m1 + m2 - q))


def raw_weight(c: np.ndarray | float, zeta: float = 10.0, offset: float = 2.0) -> Any:
    """σ(ζ c - offset), the paper's weight; σ(-offset) is its floor."""
    return 1 / (1 + np.exp(offset - zeta * c))


def soft_weight(
    q: np.ndarray, m1: float, m2: float, sigma: float, zeta: float = 10.0, offset: float = 2.0
) -> np.ndarray:
    """The weight w in [0, 1], never falling with q: 1 from the centre on, 0 far below it."""
    c = np.where(q >= (m1 + m2) / 2, 1.0, agreement(q, m1, m2, sigma))
    least, most = raw_weight(0.0, zeta, offset), raw_weight(1.0, zeta, offset)
    return np.clip((raw_weight(c, zeta, offset) - least) / (most - least), 0, 1)


# --- all of them at work ------------------------------------------------------------------------------------------------------------
class FittedO3:
    def __init__(self, mixing: str, requests: Sequence[Request], adapters: Sequence[Adapter]):
        self.mixing, self.requests, self.adapters = mixing, list(requests), list(adapters)

    def score(
        self, model: TransformerLM, examples: Sequence[Example], flagged: Sequence[bool]
    ) -> list[Score]:
        return model.score(examples, self._change([example.text for example in examples], flagged), flagged)

    def generate(
        self,
        model: TransformerLM,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        flagged: Sequence[bool],
    ) -> list[list[Generation]]:
        change = self._change([prompt.text for prompt in prompts], flagged)
        return model.generate(prompts, params, change, flagged)

    def _change(self, texts: Sequence[str], flagged: Sequence[bool]) -> ScaledAdapters:
        asked = list(dict.fromkeys(text for text, flag in zip(texts, flagged, strict=True) if flag))
        return ScaledAdapters(self.adapters, dict(zip(asked, self.weights(asked), strict=True)))

    def weights(self, texts: Sequence[str]) -> np.ndarray:
        """[n, requests] of prompts in scope; in each row the largest is no less than a half."""
        if not texts:
            return np.zeros((0, len(self.requests)))
        found = np.stack(
            [request.weights(request.detection.scores(texts), self.mixing) for request in self.requests],
            axis=1,
        )
        found[found.max(1) < LEAST] = 1.0
        return found

    def state(self) -> dict[str, Any]:
        return {
            "mixing": self.mixing,
            "requests": [
                {**request._asdict(), "detection": request.detection.state()} for request in self.requests
            ],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM, place: Place) -> FittedO3:
        requests = []
        for number, part in enumerate(state["requests"], 1):
            own = place._replace(folder=place.folder / _folder(number))
            numbers = {key: value for key, value in part.items() if key != "detection"}
            requests.append(Request(Detection.from_state(part["detection"], model, own), **numbers))
        return cls(state["mixing"], requests, read_adapters(place.folder, model, len(requests)))
