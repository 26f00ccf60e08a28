"""Exact memorisation: the share of an answer's tokens that the model would have written (Tirumala et al., 2022, arXiv:2205.10770; OpenUnlearning,
arXiv:2506.12618).

    EM = #{ t : argmax p( · | prompt, x_<t ) = x_t } / n

n counts answer tokens without the end token. Range [0, 1]; lower is better forgotten. Common words are always right: compare with the gold's.
Without any token there is none.
"""

import numpy as np

VERSION = 1


def exact_memorisation(hits: np.ndarray) -> float | None:
    """Of [n] hits (the most likely token is the right one), end token left out."""
    return float(np.mean(hits)) if len(hits) else None
