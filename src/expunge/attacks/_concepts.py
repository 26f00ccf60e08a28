"""The smallest push that takes a concept out of a hidden state, or puts it in (SCAV: Xu et al., 2024, arXiv:2404.12038).

    P(e) = σ( wᵀe + b );     e' = e + ε w / ||w||,     ε = ( logit(P0) - b - wᵀe ) / ||w||     where P(e) > P0, else 0

Of all changes that bring the probe's probability down to P0 this one is the shortest.
"""

import numpy as np


def pushed(states: np.ndarray, weights: np.ndarray, bias: float, target: float) -> np.ndarray:
    """[n, hidden] states moved until a logistic probe gives each at most `target`, row by row; those below it stay."""
    wanted = np.log(target / (1 - target))
    length = np.linalg.norm(weights)
    logit = states @ weights + bias
    step = np.where(logit > wanted, (wanted - logit) / length, 0.0)
    return states + step[:, None] * weights / length
