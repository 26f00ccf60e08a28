"""Forget quality: are the truth ratios of two models on the forget set drawn alike? (TOFU, arXiv:2401.06121, section 2.2.3)

    p = two-sample, two-sided Kolmogorov-Smirnov test of R_unlearned against R_gold

The ratios are not folded. p > 0.05: not told apart, which at small n is weak evidence: the distance D stands beside p. Being
two-sided, it also fails a model that over-forgets; it can be fooled by gibberish, so fluency stands beside it too.
"""

import math
from typing import NamedTuple

import numpy as np

VERSION = 1


class ForgetQuality(NamedTuple):
    p: float
    log10_p: float
    distance: float
    """Largest gap between the two distribution functions, in [0, 1]."""
    detectable: float
    """The smallest distance that samples of this size tell from 0 at the 5 % level: the test's power in one number."""


def forget_quality(ratios: np.ndarray, gold_ratios: np.ndarray) -> ForgetQuality:
    """Compare [n] and [m] truth ratios. The direction of the ratio does not matter."""
    from scipy.stats import ks_2samp

    test = ks_2samp(ratios, gold_ratios)
    p = float(test.pvalue)
    n, m = len(ratios), len(gold_ratios)
    return ForgetQuality(
        p, math.log10(p) if p > 0 else -math.inf, float(test.statistic), 1.358 * math.sqrt((n + m) / (n * m))
    )
