"""FILA, the Fisher-weighted start of LoKU's adapters (Cha et al., 2024, arXiv:2408.06621).

    R = F^f / (F^r + ε),   s_j = sqrt( Σ_k R_jk ),      B, A = argmin || diag(s) (W - c · B A) ||_F,      W_0 = W - c · B A

F is the mean over rows of the squared gradient of log p(answer). The adapter starts as the part of each weight that matters more
to the forget rows than to the retain rows, and only that part trains; W_0 is frozen, c is the adapter's scale. The model itself
is unchanged at the start. The best rank-r fit weighted by rows is the truncated SVD of diag(s) W.
Needs: squared gradients, row by row, of forget and retain rows, once; two numbers a weight while they are taken.
Differs from the paper: the adapter is merged before it is saved, as it is nothing without its own W_0.
Differs from the authors' code: gradients of single rows (theirs are of batches, which understates them); s is at least a thousandth
of its median (a row of zeros would explode); everything in float32.
Fails when: ε is far above all of F^r, as 1e-5 is for large models: R is then the forget rows' Fisher alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.methods.adapters._peft import lora_layers, with_lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

EXACT = 512
"""Weights with a shorter side than this are decomposed exactly, larger ones by a randomised method with twice the rank."""


class FILA(Settings):
    needs: ClassVar = frozenset({"forget", "retain"})
    artifact: ClassVar = "weights"

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    """The adapter's output is scaled by alpha / rank. The authors take twice the rank."""
    targets: str | list[str] = "all-linear"
    """Module names, or "all-linear" for every linear layer but the head."""
    epsilon: float = Field(1e-5, gt=0)
    """ε, on mean squared gradients. The authors' is 1e-5."""

    def attach(
        self,
        model: PreTrainedModel,
        seed: int,
        squares: Callable[[str, dict[str, Tensor]], dict[str, Tensor]],
    ) -> PeftModel:
        """The model with its adapters started; `squares("forget" | "retain", weights)` gives F by name."""
        adapted = with_lora(model, self.rank, self.alpha, self.targets, seed)
        layers = lora_layers(adapted)
        weights = {name: layer.base_layer.weight.requires_grad_(True) for name, layer in layers.items()}
        forget, retain = (squares(stream, weights) for stream in ("forget", "retain"))
        for name, layer in layers.items():
            weight = weights[name].requires_grad_(False)
            ratio = forget[name] / (retain[name] + self.epsilon)
            with torch.no_grad():
                scale = layer.scaling["default"]
                a, b, residual = split(weight, ratio.sum(1).sqrt(), self.rank, scale)
                layer.lora_A["default"].weight.copy_(a)
                layer.lora_B["default"].weight.copy_(b)
                weight.copy_(residual)
        return adapted


def split(weight: Tensor, importance: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """A [rank, in], B [out, rank] and W_0 [out, in] with W = W_0 + scale * B A; `importance` is s, [out]."""
    s = importance.clamp_min(1e-3 * importance.median()).clamp_min(1e-12)
    weighted = s[:, None] * weight
    if min(weight.shape) <= EXACT:
        u, sigma, v = torch.linalg.svd(weighted, full_matrices=False)
        u, sigma, v = u[:, :rank], sigma[:rank], v[:rank].T
    else:
        u, sigma, v = torch.svd_lowrank(weighted, q=2 * rank, niter=4)
        u, sigma, v = u[:, :rank], sigma[:rank], v[:, :rank]
    root = (sigma / scale).sqrt()
    a, b = (v * root).T, u * root / s[:, None]
    return a, b, weight - scale * b @ a
