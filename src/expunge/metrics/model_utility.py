"""Model utility: the harmonic mean of nine numbers (TOFU, arXiv:2401.06121, section 2.2.2).

    MU = 9 / Σ 1/x,   x in {probability, ROUGE-L recall, truth ratio} of {retain, real authors, world facts}

One zero makes the whole zero; it hides which part suffers. Read it beside the accuracy of each part.
"""

from collections.abc import Sequence

VERSION = 1


def harmonic_mean(values: Sequence[float]) -> float:
    """Of non-negative numbers; 0 as soon as one of them is."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)
