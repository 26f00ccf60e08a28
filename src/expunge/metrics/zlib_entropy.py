"""Zlib attack: the loss beside how well the text compresses (Carlini et al., 2021, arXiv:2012.07805).

    score = mean over tokens of log p(x_t)  /  bytes of zlib(text)

Nats a byte; higher = more likely a member: a text that is repetitive is likely without having been seen.
"""

import zlib

import numpy as np

VERSION = 1


def zlib_score(token_logprobs: np.ndarray, text: str) -> float:
    """Of [tokens] log-probabilities, nats, and the text that they are of."""
    return float(np.mean(token_logprobs, dtype=np.float64)) / len(zlib.compress(text.encode()))
