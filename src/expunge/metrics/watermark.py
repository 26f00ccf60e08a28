"""Waterfall's watermark in a text: how far its tokens follow a key that belongs to the owner of the data (Lau et al., 2024,
arXiv:2407.04411; as a metric of unlearning: Lu et al., 2025, arXiv:2505.05064).

    π(id, u)    = numpy.random.RandomState((id, u)).permutation(N),     identity where u >= N
    φ_k(j)      = cos(2πkj/N) for k <= K,  sin(2π(k-K)j/N) beyond,      K = largest whole number below N/2
    marking       logit(t | u) += κ · φ_k( π(id, u)[t] )                for every token t < N after token u
    q(text, id) = mean over its tokens t < N that follow a token u of   φ_k( π(id, u)[t] )

N is `vocab_size` of the watermarking model's tokenizer, and the text is cut by that tokenizer, whoever wrote it. Range [-1, 1]. Text that
has nothing to do with the key has q = 0 ± 1/√(2n) over n distinct bigrams; repeated bigrams say the same thing again, so the noise of
n bigrams of which each occurs c times is √(Σ c²/2)/n. For an owner whose data is to be forgotten, near 0 is good.

Differs from the package waterfall 0.3.4: a token >= N is left out and its neighbours stay, while the package ignores all that follows the first
one; N below 256 works (there a permutation of bytes is taken for a mask); at most 256 permutations of N are held in memory.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

VERSION = 1


class Signal(NamedTuple):
    q: float | None
    """None where there is no bigram to measure."""
    n: int
    """Bigrams."""


class Calibration(NamedTuple):
    slope: float
    """Rise of the value per per cent of the data that is still in training."""
    r2: float
    """1: the value is proportional to that share; at or below 0: no better than its mean."""


def owner_key(owner: int | str) -> int:
    """The id that stands for an owner: a whole number stands for itself, a name for a number made from it. Raises ValueError beyond 32 bits."""
    text = str(owner).strip()
    if not text.isdecimal():
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    if int(text) >= 2**32:
        raise ValueError(f"an owner's number is at most {2**32 - 1}, found {text}")
    return int(text)


@lru_cache(maxsize=256)
def permutation(key: int, previous: int, vocabulary: int) -> np.ndarray:
    """[vocabulary] bin of each token after `previous`, under a key; not to be written to."""
    if previous >= vocabulary:
        return np.arange(vocabulary, dtype=np.int32)
    return np.random.RandomState((key, previous)).permutation(vocabulary).astype(np.int32)


def wave(vocabulary: int, k: int = 1) -> np.ndarray:
    """[vocabulary] φ_k."""
    most = (vocabulary - 1) // 2
    if not 1 <= k <= 2 * most:
        raise ValueError(f"k is 1 to {2 * most} for a vocabulary of {vocabulary}, found {k}")
    angle = 2 * np.pi * np.arange(vocabulary) / vocabulary
    return np.cos(k * angle) if k <= most else np.sin((k - most) * angle)


def marked_logits(
    logits: np.ndarray, previous: int, key: int, vocabulary: int, k: int = 1, kappa: float = 2.0
) -> np.ndarray:
    """[vocab] logits with the mark on those of tokens below `vocabulary`; WaterDrum's data has κ 2, the package's default is 6."""
    marked = np.array(logits, dtype=float)
    marked[:vocabulary] += kappa * wave(vocabulary, k)[permutation(key, previous, vocabulary)]
    return marked


def signals(sequences: Sequence[Sequence[int]], key: int, vocabulary: int, k: int = 1) -> list[Signal]:
    """Q of each sequence of tokens. Every permutation is made once, however many sequences need it."""
    texts = [np.asarray(tokens, dtype=np.int64) for tokens in sequences]
    pairs = [np.stack([tokens[:-1], tokens[1:]])[:, tokens[1:] < vocabulary] for tokens in texts]
    previous, token = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), dtype=np.int64)
    bins = np.empty(len(token), dtype=np.int64)
    order = np.argsort(previous, kind="stable")
    starts = np.flatnonzero(np.diff(previous[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        if len(rows):
            bins[rows] = permutation(key, int(previous[rows[0]]), vocabulary)[token[rows]]
    values = np.split(wave(vocabulary, k)[bins], np.cumsum([pair.shape[1] for pair in pairs])[:-1])
    return [Signal(float(found.mean()) if len(found) else None, len(found)) for found in values[: len(pairs)]]


def signal(tokens: Sequence[int], key: int, vocabulary: int, k: int = 1) -> Signal:
    """Q of one sequence."""
    return signals([tokens], key, vocabulary, k)[0]


def pooled(found: Sequence[Signal]) -> Signal:
    """Of several texts together: the mean weighted by their lengths, which is q of all their bigrams."""
    n = sum(one.n for one in found)
    return Signal(sum(one.n * one.q for one in found if one.q is not None) / n if n else None, n)


def noise(sequences: Sequence[Sequence[int]], vocabulary: int) -> float | None:
    """Standard deviation of the pooled q under a key that has nothing to do with the texts; None where there is no bigram."""
    counts = Counter((int(u), int(t)) for tokens in sequences for u, t in pairwise(tokens) if t < vocabulary)
    n = sum(counts.values())
    return (sum(c * c for c in counts.values()) / 2) ** 0.5 / n if n else None


def calibration(shares: Sequence[float], values: Sequence[float]) -> Calibration:
    """WaterDrum's D2: y = m(100 - x) through (100, 0), x the per cent of the forget data that was removed before training.

    `shares`: of that data still in training, 0 to 1; `values`: the metric of a model trained with it. Raises ValueError without two different values.
    """
    left, y = 100 * np.asarray(shares, dtype=float), np.asarray(values, dtype=float)
    if not len(y) or not np.ptp(y) or not left.any():
        raise ValueError("calibration needs values that differ, and at least one with data still in training")
    slope = float((left * y).sum() / (left * left).sum())
    return Calibration(slope, 1 - float(((y - slope * left) ** 2).sum()) / float(((y - y.mean()) ** 2).sum()))
