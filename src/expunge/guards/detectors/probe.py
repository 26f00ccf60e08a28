"""Linear probe on what the model itself sees, after GUARD's prompt classifier (Deng et al., 2025, arXiv:2505.13312).

    z = Σ_j m_j h_j / Σ_j m_j   or the last token's h;     score(x) = w · (z - mean) / deviation + b     (log-odds of being in scope)

h_j: state of token j after one block of the guarded model, which reads x as a user's prompt. Whatever spelling, language or
paraphrase the model understands, the probe can in principle see, and no second encoder is run.
Needs: the weights, forget prompts and retain prompts.
Differs from the paper: logistic regression instead of a small MLP, so that the weights can be read; the last token instead of
the mean by default, because it is the state that the answer starts from (on a pocket world it flags half as many retain prompts).
Differs from the authors' code: code not read.
Fails when: the block does not put names together. A linear probe cannot tell a full name from namesakes who share its halves
unless the model has a direction for the person: on a pocket model of two blocks it flags nearly all of them. With more
dimensions than rows it separates anything it learns from; only rows that it never saw say how good it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from expunge.errors import DataError
from expunge.guards.detection import DetectorSettings, windows
from expunge.guards.namesakes import namesakes
from expunge.models.states import Pool, states
from expunge.types import Prompt, Seed

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM


class Probe(DetectorSettings):
    needs: ClassVar = frozenset({"forget", "retain", "weights"})
    raw: ClassVar = True

    layer: int = -2
    """The block whose output is read; negative numbers count from the last one, -1. GUARD takes the last but one."""
    pool: Pool = "last"
    """last: the state of the prompt's last token, where the answer starts. mean: over its tokens, as GUARD does."""
    regularisation: float = Field(1.0, gt=0)
    """Inverse strength of the L2 penalty on the standardised states (scikit-learn's C)."""
    namesakes: bool = False
    """Whether the same prompts about made-up namesakes join the retain side, where names are known. Good for a model that puts
    names together; where it does not, they cost much and gain nothing."""

    def fit(self, model: Any, data: FitData) -> FittedProbe:
        """Train on a TransformerLM. Raises DataError without forget or retain prompts, ConfigError for a block that is not there."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        if not data.can_calibrate:
            raise DataError(
                "the probe learns from forget prompts and retain prompts, and one of them is missing.\n"
                "Give --retain rows, or detect by name alone: --set detector.name=aliases"
            )
        forget = [piece for text in data.forget_prompts for piece in windows(text)]
        retain = [piece for text in data.retain_prompts for piece in windows(text)]
        if self.namesakes:
            retain += namesakes(
                forget, data.names, np.random.default_rng(Seed(data.seed).child("namesakes").number)
            )
        reader = Reader(model, self.layer, self.pool)
        scaler = StandardScaler()
        features = scaler.fit_transform(reader(forget + retain).astype(np.float64))
        found = LogisticRegression(
            C=self.regularisation, class_weight="balanced", max_iter=3000, random_state=0
        ).fit(features, [1] * len(forget) + [0] * len(retain))
        weights = found.coef_[0] / scaler.scale_
        return FittedProbe(reader, weights, float(found.intercept_[0] - weights @ scaler.mean_))


class Reader(NamedTuple):
    """What the model sees when it is asked the texts."""

    model: TransformerLM
    layer: int
    pool: Pool

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[n, hidden]"""
        return states(self.model, [Prompt.ask(text) for text in texts], self.layer, self.pool)


class FittedProbe:
    def __init__(self, reader: Reader, weights: np.ndarray, intercept: float):
        self.reader, self.weights, self.intercept = reader, weights, intercept

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] log-odds of being in scope."""
        return self.reader(texts).astype(np.float64) @ self.weights + self.intercept

    def state(self) -> dict[str, Any]:
        return {
            "layer": self.reader.layer,
            "pool": self.reader.pool,
            "weights": self.weights,
            "intercept": self.intercept,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM, place: Place) -> FittedProbe:
        return cls(Reader(model, state["layer"], state["pool"]), state["weights"], state["intercept"])
