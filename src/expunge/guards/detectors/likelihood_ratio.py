"""Likelihood ratio of a fine-tuned model and the model itself (Zhang et al., 2024, arXiv:2404.08679).

    score(x) = 1/n · Σ_t [ log p_tuned( x_t | x_<t ) - log p( x_t | x_<t ) ]     over the n tokens of x that are predicted

p is the guarded model, p_tuned the same with a LoRA adapter fine-tuned on the forget prompts as plain text. What all prompts
share (wording, grammar) grows likelier on both sides of the threshold; what only forget prompts say grows likelier there alone.
Needs: the weights, forget prompts to train on, retain prompts to calibrate on; a second copy of the model in memory.
Differs from the paper: the sign (the paper's positives are what is out of distribution); the mean over tokens, because a sum
measures length; prompts only, no answers.
Differs from the authors' code: n counts the tokens that are predicted, not the first one too; prompt and continuation come from
one pass; a score that is no number stays one and counts as in scope, where theirs becomes -1e9.
Fails when: the prompt is short and says little ("Who is she?"), or retain prompts differ from forget prompts in format: the
adapter learns the format first. The adapter lies in the guard's folder and is a leak in itself, trained to say the forget
prompts: keep it as private as the request and delete it with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.data.dataset import Record
from expunge.errors import DataError
from expunge.guards.detection import DetectorSettings, windows
from expunge.types import Example

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel

PART = "likelihood"
"""The adapter's folder within the guard's."""


class LikelihoodRatio(DetectorSettings):
    needs: ClassVar = frozenset({"forget", "retain", "weights"})
    raw: ClassVar = True

    rank: int = Field(16, ge=1)
    """Of the adapter, whose output is scaled by 2, as in the paper's runs."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of the fine-tuning; it is the detector's own, not the action's. The paper's; a pocket world takes 1e-2."""
    epochs: int = Field(10, ge=1)
    """Passes over the forget prompts. The paper takes 10 to 20."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedLikelihoodRatio:
        """Fine-tune. Raises DataError without forget or retain prompts."""
        if not data.can_calibrate:
            raise DataError(
                "likelihood_ratio is tuned on forget prompts and takes its threshold from retain prompts beside them, and one of them is missing.\n"
                "Give --retain rows, or detect by name alone: --set detector.name=aliases"
            )
        texts = [piece for text in data.forget_prompts for piece in windows(text)]
        folder = data.make(
            PART,
            "ga+lora",
            [Record(f"prompt-{i}", text=text) for i, text in enumerate(texts)],
            [],
            forget_weight=-1.0,  # ascent turned round is fine-tuning
            adapter={"rank": self.rank, "alpha": 2 * self.rank},
            train={"learning_rate": self.learning_rate, "epochs": self.epochs},
        )
        return FittedLikelihoodRatio(model, data.place.open(str(folder)))


class FittedLikelihoodRatio:
    def __init__(self, model: LanguageModel, tuned: LanguageModel):
        self.model, self.tuned = model, tuned

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] nats per token; NaN for a text in which nothing is predicted."""
        return np.array([ratio.mean() if len(ratio) else np.nan for ratio in self.ratios(texts)])

    def ratios(self, texts: Sequence[str]) -> list[np.ndarray]:
        """For each text [its predicted tokens] log p_tuned - log p. The end token that follows an answer is no part of a prompt."""
        examples = [Example(None, text) for text in texts]
        both = zip(self.tuned.score(examples), self.model.score(examples), strict=True)
        return [
            (tuned.token_logprobs.astype(np.float64) - plain.token_logprobs)[:-1] for tuned, plain in both
        ]

    def state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedLikelihoodRatio:
        return cls(model, place.open(str(place.folder / PART)))
