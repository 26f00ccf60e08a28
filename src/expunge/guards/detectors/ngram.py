"""Linear classifier on word and character n-grams, the small stand-in for ECO's prompt classifier (Liu et al., 2024, arXiv:2406.07933).

    score(x) = max over windows w of x of  σ( b + Σ_g tfidf_g(w) · c_g )

Word pairs tell a full name from two people who share its halves; character n-grams survive inflection and small typos. Long
prompts are read whole, in overlapping windows, and the highest window counts.
Needs: forget and retain prompts; a third of each is kept for calibration and never trained on. Where the target names are
known, the same prompts about made-up namesakes join the retain side.
Differs from the paper: n-grams and logistic regression instead of RoBERTa; the threshold is calibrated, not tuned by hand.
Differs from the authors' code: the score is an index-based probability, so no label name can switch it off.
Fails when: the prompt names nobody (reverse look-up, pronouns), or is spelled so that its n-grams vanish.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.config import Settings
from expunge.errors import DataError
from expunge.guards.calibration import Calibration, calibrate

WINDOW, STRIDE = 40, 20  # words


class Ngram(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"forget", "retain"})

    alpha: float | None = Field(None, gt=0, lt=0.5)
    """Promised rate of misses, and of false alarms, on prompts like those given. A rate that the rows cannot bear is refused;
    None promises 0.05, or with few rows the least that they can bear, and says which."""
    calibration_share: float = Field(1 / 3, gt=0, lt=1)
    """Share of the rows of each class that are kept for calibration."""
    regularisation: float = Field(100.0, gt=0)
    """Inverse strength of the L2 penalty (scikit-learn's C)."""

    def fit(
        self, forget: Sequence[str], retain: Sequence[str], names: Sequence[str], seed: int
    ) -> FittedNgram:
        """Train and calibrate. Raises DataError without retain prompts or with too few rows."""
        if not forget or not retain:
            raise DataError(
                "the n-gram detector learns from forget prompts and retain prompts, and one of them is missing.\n"
                "Give --retain rows, or detect by name alone: --set detector.name=names"
            )
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(seed)
        (learn_f, keep_f), (learn_r, keep_r) = (self._split(texts, rng) for texts in (forget, retain))
        learn_r += namesakes(learn_f, names, rng)
        vectorizer = TfidfVectorizer(analyzer=ngrams, sublinear_tf=True)
        matrix = vectorizer.fit_transform([*learn_f, *learn_r])
        labels = [1] * len(learn_f) + [0] * len(learn_r)
        model = LogisticRegression(
            C=self.regularisation, class_weight="balanced", max_iter=1000, random_state=0
        ).fit(matrix, labels)
        weights = {
            gram: (float(vectorizer.idf_[i]), float(model.coef_[0, i]))
            for gram, i in vectorizer.vocabulary_.items()
        }
        plain = FittedNgram(weights, float(model.intercept_[0]), UNCALIBRATED)
        return FittedNgram(
            weights,
            plain.intercept,
            calibrate(plain.scores(keep_f).tolist(), plain.scores(keep_r).tolist(), self.alpha),
        )

    def _split(self, texts: Sequence[str], rng: np.random.Generator) -> tuple[list[str], list[str]]:
        texts = list(dict.fromkeys(texts))
        order = rng.permutation(len(texts))
        kept = round(self.calibration_share * len(texts))
        return [texts[i] for i in order[kept:]], [texts[i] for i in order[:kept]]


def namesakes(texts: Sequence[str], names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The same prompts about people who are not targets but share half a name with two of them: hard negatives.

    Without them the halves of a name count for as much as the whole, and every namesake is flagged.
    """
    parts = [name.split() for name in names if len(name.split()) > 1]
    if len(parts) < 2:
        return []
    targets = {name.casefold() for name in names}
    found = []
    for text in texts:
        own = next((name for name in names if len(name.split()) > 1 and name in text), None)
        if own is None:
            continue
        other = parts[rng.integers(len(parts))]
        for made in (" ".join([*own.split()[:-1], other[-1]]), " ".join([*other[:-1], own.split()[-1]])):
            if made.casefold() not in targets:
                found.append(text.replace(own, made))
    return found


UNCALIBRATED = Calibration(0.5, 0.5, 1, 1, False, 0, 0)
"""Stands in while the calibration scores are taken."""


class FittedNgram:
    """The trained and calibrated detector. Reading a prompt takes a dictionary look-up an n-gram."""

    def __init__(self, weights: dict[str, tuple[float, float]], intercept: float, calibration: Calibration):
        self.weights = weights
        self.intercept = intercept
        self.calibration = calibration

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[n] probabilities of being in scope."""
        return np.array([max(map(self._window_score, windows(text))) for text in texts])

    def flags(self, texts: Sequence[str]) -> list[bool]:
        return self.calibration.flags(self.scores(texts))

    def _window_score(self, text: str) -> float:
        total = square = 0.0
        weights = self.weights
        for gram, count in Counter(ngrams(text)).items():
            if gram in weights:
                value, coefficient = weights[gram]
                if count > 1:
                    value *= 1 + math.log(count)
                total += value * coefficient
                square += value * value
        logit = self.intercept + (total / math.sqrt(square) if square else 0.0)
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    def state(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "intercept": self.intercept,
            "calibration": self.calibration.describe(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> FittedNgram:
        fields = {name: state["calibration"][name] for name in Calibration.__dataclass_fields__}
        return cls(
            {gram: tuple(pair) for gram, pair in state["weights"].items()},
            state["intercept"],
            Calibration(**fields),
        )


def ngrams(text: str) -> list[str]:
    """Words, pairs of neighbouring words, and 3- to 5-letter pieces of words with their borders."""
    words = re.findall(r"\w+", text.casefold())
    grams = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
    for word in words:
        framed = f"<{word}>"
        grams += [framed[i : i + n] for n in (3, 4, 5) for i in range(len(framed) - n + 1)]
    return grams


def windows(text: str) -> list[str]:
    """The text itself when short, else overlapping windows of words that cover all of it."""
    words = text.split()
    if len(words) <= WINDOW:
        return [text]
    return [" ".join(words[i : i + WINDOW]) for i in range(0, len(words) - WINDOW + STRIDE, STRIDE)]
