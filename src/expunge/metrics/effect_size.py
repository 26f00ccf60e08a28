"""Effect size: how far two samples are apart, in a number that does not grow with n as a p-value shrinks (Cliff, 1993; McGraw and Wong, 1992).

    common language = P( a > b ) + ½ P( a = b )                 [0, 1], 0.5: neither is larger
    Cliff's delta   = P( a > b ) - P( a < b ) = 2 · common language - 1      [-1, 1], 0: neither is larger

Stands beside every p-value: a p of 0.3 at n = 40 and one at n = 400 say different things, a delta says the same. Only the order of the values
counts. Intervals come from whole groups of rows drawn with replacement.
"""

import numpy as np

from expunge.metrics.roc import auroc

VERSION = 1


def common_language(a: np.ndarray, b: np.ndarray) -> float:
    """Of [n] and [m] values."""
    return auroc(a, b)


def cliffs_delta(a: np.ndarray, b: np.ndarray) -> float:
    """Of [n] and [m] values: above 0 where those of `a` are larger."""
    return 2 * common_language(a, b) - 1
