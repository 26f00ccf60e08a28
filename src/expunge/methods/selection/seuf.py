"""SEUF (UOE), one expert and its router (Zhuang et al., 2024, arXiv:2411.18797).

    s_i^l = mean over forget rows x of  (1 / L_x) Σ_t g_{i,t}^l,      the M largest of all layers move, each with its router
    L = L_forget + λ L_retain + α · mean over forget answer tokens of  Σ_l || g^l - e^l ||²

g is the gate after the top k: zero for an expert that a token does not use. The expert that the forget rows use most is the one
that is changed, and the anchor keeps the router from getting rid of the loss by sending these rows to another; e^l is one for
the chosen expert, in equal shares where several of a layer are chosen.
Needs: a mixture of experts; one forward over the forget rows before training. Shared experts never move.
Differs from the paper: the anchor is taken at the answer tokens. Where M > 1, what each of their routers is anchored to is our
reading: the paper's is one expert in one layer.
Differs from the authors' code: none was found; the rest of the fused tensors stays bit for bit as it was, also under weight decay.
Fails when: the forget rows are spread over many experts, or the retain rows use the same ones: one expert then holds little of
them, or as much of what is to stay. Rows of one kind, as in the pocket benchmark, are routed alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor

from expunge.config import Settings
from expunge.types import Streams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.train.feed import Feed


class SEUF(Settings):
    needs: ClassVar = frozenset({"router"})

    experts: int = Field(1, ge=1)
    """M: how many experts move, the best of all layers together. The authors take one."""
    alpha: float = Field(1.0, ge=0)
    """α: the anchor's coefficient. The authors take 1."""

    def pick(self, model: PreTrainedModel, feed: Feed) -> dict[str, Tensor]:
        """The M experts that the forget rows use most, and their routers. Raises ModelError for a dense model."""
        found = feed.affinities()
        order = [
            (-share, layer, i)
            for layer, seen in enumerate(found)
            for i, share in enumerate(seen.shares.tolist())
        ]
        best = sorted(order)[: self.experts]
        masks: dict[str, Tensor] = {}
        for number, seen in enumerate(found):
            if experts := [i for _, layer, i in best if layer == number]:
                masks |= seen.layer.masks(experts)
        return masks

    def penalty(self, streams: Streams) -> Tensor:
        """This micro-batch's share of the anchor."""
        (view,) = (view for view in streams.views.values() if view.gates is not None)
        goal = view.chosen / view.chosen.sum(-1, keepdim=True)  # [routers, experts]
        return self.alpha * view.token_mean((view.gates - goal).square().sum((-1, -2)))
