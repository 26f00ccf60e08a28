"""Linear classifier on word and character n-grams, the small stand-in for ECO's prompt classifier (Liu et al., 2024, arXiv:2406.07933).

    score(x) = σ( b + Σ_g tfidf_g(x) · c_g )

Word pairs tell a full name from two people who share its halves; character n-grams survive inflection and small typos. n-grams
never seen in training count as rare and for neither side, so that one known word in a strange text does not decide alone.
Needs: forget and retain prompts. Where the target names are known, the same prompts about made-up namesakes join the retain
side.
Differs from the paper: n-grams and logistic regression instead of RoBERTa; the threshold is calibrated, not tuned by hand.
Differs from the authors' code: the score is an index-based probability, so no label name can switch it off.
Fails when: the prompt names nobody (reverse look-up, pronouns), or is spelled so that its n-grams vanish.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.errors import DataError
from expunge.guards.canonical import canonicalise
from expunge.guards.detection import DetectorSettings
from expunge.guards.namesakes import namesakes
from expunge.guards.ngrams import ngrams
from expunge.types import Seed

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel


class Ngram(DetectorSettings):
    needs: ClassVar = frozenset({"forget", "retain"})

    regularisation: float = Field(100.0, gt=0)
    """Inverse strength of the L2 penalty (scikit-learn's C)."""

    def fit(self, model: LanguageModel, data: FitData) -> FittedNgram:
        """Train. Raises DataError without forget or retain prompts."""
        forget = [canonicalise(text).text for text in data.forget_prompts]
        retain = [canonicalise(text).text for text in data.retain_prompts]
        if not forget or not retain:
            raise DataError(
                "the n-gram detector learns from forget prompts and retain prompts, and one of them is missing.\n"
                "Give --retain rows, or detect by name alone: --set detector.name=aliases"
            )
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(Seed(data.seed).child("namesakes").number)
        retain += namesakes(forget, [canonicalise(name).text for name in data.names], rng)
        vectorizer = TfidfVectorizer(analyzer=ngrams, sublinear_tf=True)
        matrix = vectorizer.fit_transform([*forget, *retain])
        labels = [1] * len(forget) + [0] * len(retain)
        found = LogisticRegression(
            C=self.regularisation, class_weight="balanced", max_iter=1000, random_state=0
        ).fit(matrix, labels)
        weights = {
            gram: (float(vectorizer.idf_[i]), float(found.coef_[0, i]))
            for gram, i in vectorizer.vocabulary_.items()
        }
        return FittedNgram(weights, float(found.intercept_[0]))


class FittedNgram:
    """The trained classifier. Reading a prompt takes a dictionary look-up an n-gram."""

    def __init__(self, weights: dict[str, tuple[float, float]], intercept: float):
        self.weights, self.intercept = weights, intercept
        self.unknown = max((idf for idf, _ in weights.values()), default=0.0), 0.0
        """As rare as any, and for neither side: a text of which little is known stays near the intercept."""

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] probabilities of being in scope."""
        return np.array([self._score(text) for text in texts])

    def _score(self, text: str) -> float:
        total = square = 0.0
        weights = self.weights
        for gram, count in Counter(ngrams(text)).items():
            value, coefficient = weights.get(gram, self.unknown)
            if count > 1:
                value *= 1 + math.log(count)
            total += value * coefficient
            square += value * value
        logit = self.intercept + (total / math.sqrt(square) if square else 0.0)
        return 0.0 if logit < -700 else 1 / (1 + math.exp(-logit))  # NaN stays NaN: it counts as in scope

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "intercept": self.intercept}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedNgram:
        weights = {gram: (idf, coefficient) for gram, (idf, coefficient) in state["weights"].items()}
        return cls(weights, state["intercept"])
