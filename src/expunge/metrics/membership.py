"""Membership: can forget rows be told from never-trained rows by a score? (Yeom et al., 2018, arXiv:1709.01604; Shokri et al., 2017)

    AUC = P( score(forget row) > score(never-trained row) ) + ½ P( equal ),    score = mean log p(answer | question), or another attack's

1: every forget row scores higher, as in the model that was trained on them; 0.5: no trace; below 0.5: over-forgotten, which tells as much.
"""

import numpy as np

from expunge.metrics.roc import auroc

VERSION = 1


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve of [n] and [m] scores, higher = more likely a member; ties counted half."""
    return auroc(members, others)
