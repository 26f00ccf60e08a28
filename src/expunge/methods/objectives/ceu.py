"""CE-U, cross-entropy unlearning (Yang, 2025, arXiv:2503.01224).

    q_t = sg( softmax of z_t without the true token );     L(θ) = - mean over forget tokens of  Σ_v q_t(v) · log p_θ(v)

UNDIAL with λ = ∞ and the current model as its own teacher: the true token is pushed down by exactly its probability and
everything else keeps its proportions, so the push neither vanishes on a sure token nor explodes on a lost one.
Needs: nothing but the forget rows.
Differs from the paper: nothing; as there, the first answer token is left out (it carries style, not fact).
Differs from the authors' code: nothing known.
Fails when: answers are one token long: there is nothing left to push. Without a retain term it never stops.
"""

from typing import ClassVar

import torch
from torch import Tensor

from expunge.config import Settings
from expunge.types import Streams


class CEU(Settings):
    needs: ClassVar = frozenset({"forget", "logits"})
    weighted: ClassVar = True

    skip_first: bool = True
    """Leave out the first token of each answer."""

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        others = view.logits.detach().scatter(-1, view.targets[:, None], -torch.inf)  # [answer, vocab]
        cross_entropy = -(others.softmax(-1) * view.logits.log_softmax(-1)).sum(-1)
        if not self.skip_first:
            return view.token_mean(weight * cross_entropy)
        counted = (weight * cross_entropy)[view.position > 0].sum()
        return counted / max(1, view.step_tokens - view.step_rows)
