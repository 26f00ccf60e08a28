"""Newton scrub of L-CODEC's rows (Mehta et al., 2022, arXiv:2204.07655; step and noise of Sekhari et al., 2021).

    θ <- θ + ( H' + λ I )⁻¹ Σ_z g_z / (n - m),     H' = ( n H - Σ_z H_z ) / (n - m) = Σ_retained g gᵀ / (n - m)

One Newton step from the optimum of the loss over all n rows to that without the m forget rows, on the weights that the
selection `codec` chose, where g are gradients of -log p of a row's answer. With the empirical Hessian Σ g gᵀ / n what is left
after taking out the forget rows' share is the retain rows' own; its inverse is applied exactly by Woodbury's identity, with a
system of the size of the number of retain rows. With `epsilon` and `delta`: plus N(0, σ²), σ = (γ/ε) sqrt(2 ln(1.25/δ)),
γ = 2 M L² m² / (n² λ³) at M = L = 1.
Needs: forget and retain rows (all that the model was trained on, for the formula to mean what it says); the selection `codec`.
Differs from the paper: all forget rows leave in one step; the Hessian is the Gauss-Newton kind from gradients at hand, not from
two stored checkpoints; there is no reverting when validation drops: the losses before and after are in the manifest.
Differs from the authors' code: there the second gradient of the sample's Hessian is the first one again, so it is zero.
Fails when: the rows that were chosen are few: then little can change. Where the model knows all rows by heart all gradients are
small, λ outweighs H', and the step is gradient ascent. The certificate asks for a strongly convex loss and is vacuous for deep
nets: at n = 100, m = 1, λ = 0.01, ε = 0.1, δ = 0.01 σ is 6215, which no model survives.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from expunge.config import Settings
from expunge.errors import DataError

if TYPE_CHECKING:
    from expunge.train.workbench import Workbench


class Newton(Settings):
    claim: ClassVar = "approximate"
    needs: ClassVar = frozenset({"forget", "retain"})
    selects: ClassVar = True

    damping: float = Field(1e-2, gt=0)
    """λ. The smaller, the longer the step where the retain rows do not resist. The authors take 0.001 to 0.1."""
    epsilon: float | None = Field(None, gt=0)
    """ε of the certificate's noise; none, no noise and no certificate. The authors take 0.1."""
    delta: float | None = Field(None, gt=0, lt=1)
    """δ of the same. The authors take 0.01."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.epsilon is None) != (self.delta is None):
            raise ValueError("the noise needs epsilon and delta; give both or neither")
        return self

    def apply(self, bench: Workbench) -> dict[str, Any]:
        """Scrub the forget rows from the selected weights; says how far they moved and what that did to the losses."""
        forget, retain = bench.rows.forget, bench.rows.retain
        if not forget or not retain:
            raise DataError(
                "method 'newton' needs forget and retain rows with text: their gradients make the step. Add --retain FILE."
            )
        masks = bench.selection.pick(bench.model, bench)
        before = {"forget": bench.loss(forget), "retain": bench.loss(retain)}
        pull = bench.gradients(forget, masks).double().sum(0)
        step = newton_step(pull, bench.gradients(retain, masks).double(), self.damping)
        size = float(step.norm() / bench.weights(masks).double().norm())
        sigma = 0.0
        if self.epsilon is not None and self.delta is not None:
            sigma = deviation(len(forget) + len(retain), len(forget), self.damping, self.epsilon, self.delta)
            generator = torch.Generator().manual_seed(bench.seed.child("noise").number)
            step = step + sigma * torch.randn(step.shape, generator=generator).to(step)
        bench.move(masks, step)
        return {
            "rows": {
                name: mask.reshape(len(mask), -1)[:, 0].nonzero()[:, 0].tolist()
                for name, mask in masks.items()
            },
            "weights": len(step),
            "change": size,
            "sigma": sigma,
            "loss_before": before,
            "loss_after": {"forget": bench.loss(forget), "retain": bench.loss(retain)},
        }


def newton_step(pull: Tensor, kept: Tensor, damping: float) -> Tensor:
    """( GᵀG / rows + λ I )⁻¹ Σ g_z / rows, from `pull` = Σ g_z [chosen] and `kept` = G [rows, chosen], without a matrix of
    [chosen, chosen].
    """
    rows = len(kept)
    small = kept @ kept.T + rows * damping * torch.eye(rows).to(kept)
    through = kept.T @ torch.linalg.solve(small, kept @ pull)
    return (pull - through) / (damping * rows)


def deviation(n: int, m: int, damping: float, epsilon: float, delta: float) -> float:
    """σ of the noise that would certify the removal of m of n rows, for a loss with M = L = 1."""
    gamma = 2 * m**2 / (n**2 * damping**3)
    return gamma / epsilon * math.sqrt(2 * math.log(1.25 / delta))
