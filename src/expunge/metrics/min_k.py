"""Min-K % and Min-K %++: the least likely tokens of a text tell whether it was trained on (Shi et al., 2024, arXiv:2310.16789; Zhang et al.,
2024, arXiv:2404.02936).

    min-k    = mean of log p(x_t)                    over the k % of tokens where it is smallest
    min-k++  = mean of ( log p(x_t) - μ_t ) / σ_t    over the k % where that is smallest
    μ_t = Σ_v p_v log p_v,     σ_t² = Σ_v p_v (log p_v)² - μ_t²      over the vocabulary, at the position of token t

Higher = more likely a member. Nats; min-k++ is in standard deviations. A distribution without spread (σ² below 1e-12) says
nothing: 0. OpenUnlearning clamps σ² at 1e-6 instead.
"""

import math

import numpy as np

VERSION = 1
LEAST_VARIANCE = 1e-12


def standardised(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[tokens] z of each target token, from [tokens, vocab] logits."""
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    p = np.exp(logp)
    mean = (p * logp).sum(-1)
    variance = (p * (logp - mean[..., None]) ** 2).sum(-1)
    given = logp[np.arange(len(targets)), targets] - mean
    flat = variance < LEAST_VARIANCE
    return np.where(flat, 0.0, given / np.sqrt(np.where(flat, 1.0, variance)))


def lowest_mean(values: np.ndarray, share: float = 0.2) -> float:
    """Mean of the smallest `share` of [tokens] values, at least one of them."""
    kept = max(1, math.floor(share * len(values)))
    return float(np.sort(values)[:kept].mean())
