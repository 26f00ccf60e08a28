"""Fluency: would a judge model have written this? And does it repeat itself?

    judged(text)   = exp( mean log p_judge(token) )          geometric mean token probability of the answer, [0, 1]
    distinct2      = distinct bigrams / bigrams              over the words of one answer, [0, 1]

The judge is a model that is fluent and does not know the facts: the gold where there is one, else the model before
unlearning. Gibberish scores near 0 whatever its p-value; compare with the gold's own answers, not with 1.
"""

import numpy as np

from expunge.metrics.accuracy import words

VERSION = 1


def judged(mean_logprobs: np.ndarray) -> float:
    """Mean over answers; [n] mean log-probability per token under the judge, nats. An empty answer counts as -inf (0)."""
    return float(np.exp(np.asarray(mean_logprobs, dtype=float)).mean())


def distinct_bigrams(text: str) -> float:
    """1 for an answer of at most one bigram that is not empty, 0 for an empty one."""
    said = words(text)
    bigrams = list(zip(said, said[1:], strict=False))
    return len(set(bigrams)) / len(bigrams) if bigrams else float(bool(said))
