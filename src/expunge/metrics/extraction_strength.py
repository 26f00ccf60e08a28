"""Extraction strength: how much of an answer the model completes by itself (Carlini et al., 2021, arXiv:2012.07805; OpenUnlearning,
arXiv:2506.12618).

    ES = 1 - k / n,      k = smallest start from which every remaining most likely token is the right one, 0 ≤ k ≤ n

n counts answer tokens without the end token; the model is given the right tokens before each. Range [0, 1]; lower is better forgotten. Without
any token there is none. OpenUnlearning lets k go no further than n - 1: an answer without one right token has 1/n there, a wrong answer of
one token 1, and an empty one 0.
"""

from typing import Literal

import numpy as np

VERSION = 1


def extraction_strength(hits: np.ndarray, compat: Literal["", "openunlearning"] = "") -> float | None:
    """Of [n] hits (the most likely token is the right one), end token left out."""
    n = len(hits)
    tail = n if np.all(hits) else int(np.argmin(hits[::-1]))
    if compat == "openunlearning":
        return max(tail, 1) / n if n else 0.0
    return tail / n if n else None
