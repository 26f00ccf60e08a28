"""Several detectors under one threshold, calibrated together: the default. No paper.

    score(x) = max_k  ( s_k(x) - r_k ) / max( f_k - r_k, 3 σ_k )        over the parts k

    f_k, r_k: mean score of forget and of retain prompts;   σ_k: spread of the retain prompts' scores

A prompt is in scope when any part sees it. Every part is put on the scale on which retain prompts that it did not learn from are
at 0 and forget prompts at 1, so that each can reach the threshold by itself; a part that is noisy on retain prompts is held down
by its noise. One threshold is calibrated on the union's own score: its rates hold for all parts together and do not add up.
Needs: what its parts need. Without forget or retain prompts only the parts that learn nothing are used, at their own fixed
thresholds; nothing is promised then.
Differs from the paper: no paper.
Differs from the authors' code: no code.
Fails when: one part is noisy on retain prompts: its scale stretches until the other parts decide alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from expunge import catalog
from expunge.errors import ConfigError
from expunge.guards.detection import Detection, DetectorSettings

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel

SCALE_SHARE = 1 / 3
"""Share of the retain prompts that the parts are scaled on, and do not learn from."""
NOISE = 3.0
"""A part's chance ups and downs on retain prompts stay below 1 up to so many standard deviations."""


class Union(DetectorSettings):
    needs: ClassVar = frozenset({"subject"})
    raw: ClassVar = True  # each part reads the text in its own way

    parts: dict[str, dict[str, Any]] = {"aliases": {}, "ngram": {}}
    """The detectors by name, with their settings. Their own `alpha` and `calibration_share` play no part."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedUnion:
        """Fit and scale the parts. Raises ConfigError when no part can do with the rows that there are."""
        chosen = {
            name: catalog.load("detector", name).parse(values, f"detector union, part {name}")
            for name, values in self.parts.items()
        }
        if not data.can_calibrate:
            chosen = {name: part for name, part in chosen.items() if not part.learns}
        if not data.names:
            chosen = {name: part for name, part in chosen.items() if "subject" not in part.needs}
        if not chosen:
            raise ConfigError(
                f"detector union: none of its parts ({', '.join(self.parts)}) can do with what there is: no names to look for, and not both forget and retain prompts.\n"
                "Add a 'subject' to the forget rows, or --retain rows."
            )
        learnt, scale = data.split(SCALE_SHARE)
        learnt = replace(learnt, forget=data.forget)
        parts = {}
        for name, part in chosen.items():
            part.refuse_endpoint(model)
            fitted = part.fit(model, learnt if part.learns else data.whole or data)
            at_work = Detection.uncalibrated(part, fitted)
            parts[name] = Scaled(at_work, *_scale(at_work, data.forget_prompts, scale.retain_prompts))
        return FittedUnion(parts)


class Scaled(NamedTuple):
    detection: Detection
    mean: float
    spread: float


def _scale(detection: Detection, forget: Sequence[str], retain: Sequence[str]) -> tuple[float, float]:
    """What to take off a part's scores and what to divide them by; 0 and 1, which change nothing, where there are no rows."""
    if not forget or not retain:
        return 0.0, 1.0
    inside, outside = (detection.scores(texts) for texts in (forget, retain))
    mean = float(outside.mean())
    return mean, max(float(np.nanmean(inside)) - mean, NOISE * float(outside.std())) or 1.0


class FittedUnion:
    def __init__(self, parts: Mapping[str, Scaled]):
        self.parts = dict(parts)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        return np.max(list(self.part_scores(texts).values()), axis=0)  # NaN wins

    def part_scores(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """By part, on the common scale."""
        return {
            name: (part.detection.scores(texts) - part.mean) / part.spread
            for name, part in self.parts.items()
        }

    def state(self) -> dict[str, Any]:
        return {
            name: {"mean": part.mean, "spread": part.spread, "detection": part.detection.state()}
            for name, part in self.parts.items()
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedUnion:
        return cls(
            {
                name: Scaled(
                    Detection.from_state(part["detection"], model, place), part["mean"], part["spread"]
                )
                for name, part in state.items()
            }
        )
