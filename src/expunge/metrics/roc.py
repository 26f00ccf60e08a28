"""The ROC curve of two samples of scores: its area, and what it detects at few false alarms (Carlini et al., 2022, arXiv:2112.03570).

    AUROC     = P( score(positive) > score(negative) ) + ½ P( equal )
    TPR @ FPR = largest share of positives at or above a threshold that at most FPR of the negatives reach

Range [0, 1]. 0.5 is chance for the area, FPR itself for the detection rate. n negatives resolve no FPR below 1/n: the threshold would have to
lie above all of them. Intervals come from whole groups of rows drawn with replacement.
"""

import math

import numpy as np

VERSION = 1


def auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Of [n] and [m] scores, ties counted half; by ranks, so in O((n + m) log m) and without a table of all pairs."""
    below = np.sort(np.asarray(negatives, dtype=float))
    left, right = (
        np.searchsorted(below, np.asarray(positives, dtype=float), side) for side in ("left", "right")
    )
    return float((left + right).sum(dtype=np.float64) / 2 / len(left) / len(below))


def smallest_fpr(negatives: int) -> float:
    """The smallest false-positive rate above 0 that so many negatives can show."""
    return 1 / negatives


def tpr_at_fpr(positives: np.ndarray, negatives: np.ndarray, fpr: float) -> float:
    """Of [n] and [m] scores. Raises ValueError where m negatives cannot resolve the rate."""
    below = np.sort(np.asarray(negatives, dtype=float))[::-1]
    allowed = math.floor(fpr * len(below) + 1e-9)
    if allowed < 1:
        raise ValueError(why_unresolved(len(below), fpr))
    if allowed >= len(below):
        return 1.0
    return float(np.mean(np.asarray(positives, dtype=float) > below[allowed]))


def why_unresolved(negatives: int, fpr: float) -> str:
    """The reason why there is no rate at `fpr`, or ""."""
    if fpr * negatives >= 1 - 1e-9:
        return ""
    return f"{negatives} negatives resolve no false-positive rate below {smallest_fpr(negatives):.3g}: {fpr:g} takes at least {math.ceil(1 / fpr - 1e-9)}"
