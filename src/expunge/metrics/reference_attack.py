"""Reference attack: how much likelier than under a model that never saw the text (Carlini et al., 2021, arXiv:2012.07805).

    score = mean log p(x) - mean log p_reference(x)

Nats a token; higher = more likely a member. The reference here is the gold.
"""

VERSION = 1


def reference_score(mean_logprob: float, reference_mean_logprob: float) -> float:
    return mean_logprob - reference_mean_logprob
