"""Overall score: memorisation, privacy and utility in one number that names its weakest part (after Dorna et al., 2025, arXiv:2506.12618).

    HM(x) = n / Σ 1/x_i
    memorisation = HM( 1 - ES, 1 - EM, 1 - P(paraphrase), 1 - right / (right + wrong) )                of the forget rows
    privacy      = HM over loss, zlib, min-k, min-k++ of  1 - | A - A_gold | / max( A_gold, 1 - A_gold )    A = AUC of the attack
    utility      = HM( model utility, fluency of the forget answers )
    overall      = HM( memorisation, privacy, utility )
    robust utility = mean_i min( 1, part_i / part_i of the reference )         over the nine parts of model utility

The reference is the target, or the gold where no target was given (the figure's note says which).
Range [0, 1]; higher is better. The paper says which numbers go in and that they are combined by harmonic means; its notebook was not kept
(issue 150 of its repository) and how an AUC becomes a closeness was not said, so the closeness above and this composition are ours. The
fluency there is a classifier's, here plausibility under the gold. Memorisation rewards over-forgetting; privacy takes it back.

A harmonic mean is 0 as soon as one part is, whatever the others are, and near 0 for a part that the model never was good at. The robust
utility asks what is left of each part, no part can move it by more than a ninth, and what was gained on one part makes up for no loss on
another. An average may still hide a part that is gone, so the worst kept share stands beside it and is named.

Intervals of what is composed draw the rows of each part by themselves, also where two parts read the same rows.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from expunge.metrics.model_utility import harmonic_mean

VERSION = 1
LEAST = 0.01
"""A part that the reference itself has less of says nothing about what was kept."""


class Whole(NamedTuple):
    value: float
    worst: str
    """The name of the lowest part: the one that makes the whole 0 where it is."""
    least: float
    """The value of that part."""


def harmonic(parts: Mapping[str, float]) -> Whole:
    """Of named numbers in [0, 1]."""
    worst = min(parts, key=parts.__getitem__)
    return Whole(harmonic_mean(list(parts.values())), worst, parts[worst])


def memorisation_parts(
    extraction_strength: np.ndarray,
    exact_memorisation: np.ndarray,
    paraphrase_probability: np.ndarray,
    truth_ratio: np.ndarray,
) -> dict[str, np.ndarray]:
    """Of [n] rows; `truth_ratio` in its knowledge form, right / (right + wrong). 1: not memorised."""
    known = {
        "extraction_strength": extraction_strength,
        "exact_memorisation": exact_memorisation,
        "paraphrase_probability": paraphrase_probability,
        "truth_ratio": truth_ratio,
    }
    return {f"1 - {name}": 1 - value for name, value in known.items()}


def closeness(auc: float, gold_auc: float) -> float:
    """1 where the AUC is the gold's, 0 where it is as far from it as an AUC can be."""
    return 1 - abs(auc - gold_auc) / max(gold_auc, 1 - gold_auc)


def privacy_parts(aucs: Mapping[str, float], gold_aucs: Mapping[str, float]) -> dict[str, float]:
    """From AUCs by attack."""
    return {attack: closeness(auc, gold_aucs[attack]) for attack, auc in aucs.items()}


class Kept(NamedTuple):
    mean: float
    worst: str
    worst_share: float
    left_out: tuple[str, ...]
    """Parts that the reference has too little of."""


def robust_utility(parts: Mapping[str, float], reference: Mapping[str, float]) -> Kept:
    """From the parts of model utility, here and in the reference. Raises ValueError where the reference has none of them."""
    shares = {
        name: min(1.0, part / reference[name]) for name, part in parts.items() if reference[name] >= LEAST
    }
    if not shares:
        raise ValueError("the reference has no utility to keep")
    worst = min(shares, key=shares.__getitem__)
    return Kept(
        sum(shares.values()) / len(shares),
        worst,
        shares[worst],
        tuple(name for name in parts if name not in shares),
    )
