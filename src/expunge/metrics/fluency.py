"""Fluency: would a judge model have written this? And does it repeat itself?

    plausibility(text) = median over the answer's tokens and the end token of p_judge(token | question, answer so far)    [0, 1]
    distinct2(text)    = distinct bigrams / bigrams over the words of the answer                                          [0, 1]

The judge is a model that is fluent and does not know the facts: the gold where there is one, else the model before
unlearning. The median forgives the one or two words that carry a fact, right or wrong; gibberish scores near 0 whatever its
p-value. Compare with the gold's own answers.
"""

from itertools import pairwise

import numpy as np

from expunge.metrics.accuracy import words

VERSION = 1


def plausibility(token_logprobs: np.ndarray) -> float:
    """[answer] log-probabilities under the judge, nats, end token included; an empty answer is 0."""
    return float(np.exp(np.median(token_logprobs))) if len(token_logprobs) else 0.0


def distinct_bigrams(text: str) -> float:
    """1 for an answer of at most one bigram that is not empty, 0 for an empty one."""
    said = words(text)
    bigrams = list(pairwise(said))
    return len(set(bigrams)) / len(bigrams) if bigrams else float(bool(said))
