"""Loss attack: members are likelier (Yeom et al., 2018, arXiv:1709.01604).

    score = mean over tokens of log p(x_t)

Nats; higher = more likely a member. MUSE's "PPL" is this with the sign turned, not a perplexity.
"""

import numpy as np

VERSION = 1


def loss_score(token_logprobs: np.ndarray) -> float:
    """Of [tokens] log-probabilities, nats."""
    return float(np.mean(token_logprobs, dtype=np.float64))
