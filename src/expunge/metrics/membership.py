"""Loss-based membership: can forget rows be told from never-trained rows by their likelihood? (Yeom et al., 2018)

    AUC = P( score(forget row) > score(never-trained row) ) + ½ P( equal ),    score = mean log p(answer | question)

1: every forget row is likelier, as in the model that was trained on them; 0.5: no trace; below 0.5: over-forgotten.
"""

import numpy as np

VERSION = 1


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve of two samples of scores, ties counted half."""
    members, others = np.asarray(members, dtype=float), np.asarray(others, dtype=float)
    return float((members[:, None] > others).mean() + 0.5 * (members[:, None] == others).mean())
