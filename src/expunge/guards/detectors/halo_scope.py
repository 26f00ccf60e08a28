"""Membership in the subspace of the forget prompts' states, HaloScope's score (Du et al., 2024, arXiv:2409.17504).

    f_i = h_i - mean(h);   F = U Σ V^T;     score(x) = 1/k · Σ_{j<=k}  ( σ_j / sqrt(N) ) · <f(x), v_j>²

h_i: state of the last token of forget prompt i after one block; N of them; v_j, σ_j: the largest singular vectors and values. A
prompt that lies far out along the directions in which forget prompts differ most from each other is in scope.
Needs: the weights and forget prompts; retain prompts to calibrate on.
Differs from the paper: it reads the end of the prompt, where the model is about to answer, and not the end of a generated answer; the
subspace is the forget prompts', not that of a mixture without labels; σ_j is divided by sqrt(N), so that the score does not grow
with the number of rows. Its second stage, a classifier trained on the rows that the score itself sorted, is left out: here the
labels are known, and a classifier that learns from them is the detector `probe`.
Differs from the authors' code: theirs is |mean of σ_j <f, v_j>|, which changes when a singular vector changes its sign, and
projects states that were not centred. This is the paper's formula. High is always in scope; no sign is picked afterwards.
Fails when: retain prompts spread along the same directions (other people asked the same kinds of questions): it knows what
forget prompts look like and not what sets them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from expunge.errors import DataError
from expunge.guards.detection import DetectorSettings, windows
from expunge.models.states import states
from expunge.models.subspace import Subspace, find_subspace, subspace_score
from expunge.types import Prompt

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM


class HaloScope(DetectorSettings):
    needs: ClassVar = frozenset({"forget", "retain", "weights"})
    raw: ClassVar = True

    layer: int = -2
    """The block whose output is read; negative numbers count from the last one, -1."""
    k: int = Field(10, ge=1)
    """Singular vectors that span the subspace. The paper tries 1 to 10."""

    def fit(self, model: Any, data: FitData) -> FittedHaloScope:
        """On a TransformerLM. Raises DataError without forget or retain prompts, ConfigError for a block that is not there."""
        if not data.can_calibrate:
            raise DataError(
                "halo_scope takes its subspace from forget prompts and its threshold from retain prompts beside them, and one of them is missing.\n"
                "Give --retain rows, or detect by name alone: --set detector.name=aliases"
            )
        forget = [piece for text in data.forget_prompts for piece in windows(text)]
        return FittedHaloScope(model, self.layer, find_subspace(_read(model, self.layer, forget), self.k))


def _read(model: TransformerLM, layer: int, texts: Sequence[str]) -> np.ndarray:
    return states(model, [Prompt.ask(text) for text in texts], layer).astype(np.float64)


class FittedHaloScope:
    def __init__(self, model: TransformerLM, layer: int, subspace: Subspace):
        self.model, self.layer, self.subspace = model, layer, subspace

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        return subspace_score(_read(self.model, self.layer, texts), self.subspace)

    def state(self) -> dict[str, Any]:
        return {"layer": self.layer, **self.subspace._asdict()}

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM, place: Place) -> FittedHaloScope:
        return cls(model, state["layer"], Subspace(*(np.asarray(state[name]) for name in Subspace._fields)))
