"""Membership scores of one text by every attack of the field, from one Score: higher = more likely a member."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from expunge.benchmarks._figures import usable
from expunge.metrics.gradient_norm import gradient_norm_score
from expunge.metrics.loss import loss_score
from expunge.metrics.min_k import lowest_mean
from expunge.metrics.zlib_entropy import zlib_score
from expunge.types import Score

MUSE_SHARE = 0.4
"""MUSE's and open-unlearning's k; RWKU prints 0.2."""


def attack_scores(
    score: Score | None,
    text: str,
    *,
    shares: Sequence[float] = (MUSE_SHARE,),
    drop_end: bool = True,
    gradient: float | None = None,
) -> dict[str, float | None]:
    """`loss`, `zlib`, `min_k_40`, `min_k++_40` (one of each a share) and `gradient_norm`; None where there is no usable likelihood
    or gradient, or an answer of no token is left. `text`: what zlib compresses. `drop_end`: without the end token, which no raw text had.
    """
    names = ["loss", "zlib", *(f"{name}_{round(100 * k)}" for k in shares for name in ("min_k", "min_k++"))]
    found: dict[str, float | None] = dict.fromkeys(names)
    found["gradient_norm"] = (
        None if gradient is None or not isfinite(gradient) else gradient_norm_score(gradient)
    )
    score = usable(score)
    if score is None:
        return found
    kept = slice(None, -1) if drop_end else slice(None)
    logp, z = score.token_logprobs[kept], None if score.z is None else score.z[kept]
    if not len(logp):
        return found
    found |= {"loss": loss_score(logp), "zlib": zlib_score(logp, text)}
    for k in shares:
        found[f"min_k_{round(100 * k)}"] = lowest_mean(logp, k)
        found[f"min_k++_{round(100 * k)}"] = None if z is None else lowest_mean(z, k)
    return found
