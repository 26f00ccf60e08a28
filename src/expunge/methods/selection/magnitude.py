"""The largest weights, as a control for WAGLE (no paper of its own; compared with in arXiv:2410.17509).

    s_i = | θ_i |,     the largest move

Needs: nothing.
Differs from the paper: nothing.
Differs from the authors' code: nothing known.
Fails when: layers differ in scale: the ones with large weights are taken whole.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import ParameterView


class Magnitude(Settings):
    needs: ClassVar = frozenset()

    share: float = Field(0.95, gt=0, le=1)
    """Share of all parameters that may move."""

    def score(self, seen: ParameterView) -> Tensor:
        return seen.weight.abs()
