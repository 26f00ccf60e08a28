"""SNIP, connection sensitivity (Lee et al., 2018, arXiv:1810.02340), as a control for WAGLE.

    s_i = | θ_i · g_f,i |,     the largest move

What WAGLE becomes when the retain gradient does not count.
Needs: the forget gradient at the starting model, once.
Differs from the paper: picks what moves instead of what is kept when pruning.
Differs from the authors' code: gradients of the mean over all rows instead of one batch.
Fails when: the weights that carry the forget rows carry the retain rows as well.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import ParameterView


class SNIP(Settings):
    needs: ClassVar = frozenset({"forget"})

    share: float = Field(0.95, gt=0, le=1)
    """Share of all parameters that may move."""

    def score(self, seen: ParameterView) -> Tensor:
        return (seen.weight * seen.forget).abs()
