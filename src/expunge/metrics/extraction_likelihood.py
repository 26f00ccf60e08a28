"""Extraction likelihood and memorisation accuracy: how much of a text does a model write by itself? (Jang et al., 2023, arXiv:2210.01504)

    OVERLAP_n(a, b) = (n-grams of a, each time they stand there, that occur in b) / (n-grams of b)
    EL_n(x)  = Σ_{i=1}^{T-1} OVERLAP_n( f(x_<i), x_>=i ) / (T - 1 - (n - 1)),     f(x_<i): greedy continuation of the first i tokens
    MA(x)    = Σ_{i=1}^{T-1} 1{ argmax p(· | x_<i) = x_i } / (T - 1)
    recall at e errors = texts whose suffix was guessed right before the e-th wrong guess, guesses in order of confidence / all texts
(Google's training-data extraction challenge, 2022). Tokens are counted from 0. Range [0, 1]; lower is good for what is to be forgotten.

The last n-1 suffixes have no n-gram and add nothing, which is why T-n terms are divided by T-n. A continuation that ends early has fewer n-grams
against the same denominator: what it does not write is not extracted. Only as many of its tokens count as the true suffix has.
"""

from collections.abc import Mapping, Sequence

import numpy as np

VERSION = 1


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All of them, in order."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def overlap(written: Sequence[str], suffix: Sequence[str], n: int) -> float | None:
    """Share of n-grams; None where the true suffix has none."""
    true = ngrams(suffix, n)
    if not true:
        return None
    known = set(true)
    return sum(gram in known for gram in ngrams(written[: len(suffix)], n)) / len(true)


def extraction_likelihood(
    tokens: Sequence[str], written: Mapping[int, Sequence[str]], n: int
) -> float | None:
    """EL_n of a text of T `tokens` from the continuations `written` of its first i tokens, by i. The mean over those i whose suffix has n-grams:
    with all of 1 to T-1 that is EL_n. None where there is no such i.
    """
    found = [overlap(said, tokens[i:], n) for i, said in written.items()]
    counted = [share for share in found if share is not None]
    return sum(counted) / len(counted) if counted else None


def memorisation_accuracy(hits: np.ndarray) -> float | None:
    """MA from [T-1] hits of the tokens after the first; None where there are none."""
    return float(np.mean(hits, dtype=np.float64)) if len(hits) else None


def recall_at_errors(right: Sequence[bool], confidence: Sequence[float], errors: int = 100) -> float:
    """Of one guess a text. Equal confidence keeps the order given. Raises ValueError without guesses."""
    if not len(right):
        raise ValueError("there are no guesses")
    solved = wrong = 0
    for i in np.argsort(-np.asarray(confidence, dtype=float), kind="stable"):
        if wrong >= errors:
            break
        solved += bool(right[i])
        wrong += not right[i]
    return solved / len(right)
