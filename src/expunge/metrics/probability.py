"""Length-normalised answer probability, plain and against wrong options (TOFU, arXiv:2401.06121, section 2.2.2).

    P(a|q) = exp( -mean NLL ) = p(a|q)^(1/|a|),        P_options = P(a|q) / ( P(a|q) + Σ_i P(wrong_i|q) + ε )

|a| counts answer tokens with the end token. Range [0, 1]; higher is better known.
"""

import numpy as np

VERSION = 1


def probability(nll: np.ndarray) -> np.ndarray:
    """[n] mean NLL per token, nats, to [n] probabilities."""
    return np.exp(-np.asarray(nll, dtype=float))


def probability_with_options(nll: np.ndarray, wrong_nll: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """[n] and [n, wrong] mean NLLs to the share of the right answer among all options. `epsilon`: 1e-10 in open-unlearning."""
    right = probability(nll)
    return right / (right + probability(wrong_nll).sum(axis=1) + epsilon)
