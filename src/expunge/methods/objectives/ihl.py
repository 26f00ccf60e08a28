"""IHL, the inverted hinge loss of LoKU (Cha et al., 2024, arXiv:2408.06621).

    L(θ) = mean over forget tokens of  1 + p_θ(y) - p_θ(v*),     v* = the likeliest token other than y

The true token hands its probability to the runner-up. The loss lies in [0, 2] and its gradient fades once the true token is
gone, where gradient ascent pushes on; the hinge of its name never bites, as p(y) - p(v*) >= -1.
Needs: nothing but the forget rows; a retain term is part of the published method, as is LoRA with its FILA start.
Differs from the paper: nothing.
Differs from the authors' code: the two largest logits instead of a one-hot matrix over the vocabulary.
Fails when: the answer is perfectly memorised: at p = 0.998 the push is as small as gradient ascent's.
"""

from typing import ClassVar

from torch import Tensor

from expunge.config import Settings
from expunge.types import Streams


class IHL(Settings):
    needs: ClassVar = frozenset({"forget", "logits"})
    weighted: ClassVar = True

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        first, second = view.logits.detach().topk(2, dim=-1).indices.unbind(-1)  # [answer] each
        rival = second.where(first == view.targets, first)
        rival_logp = view.logits.gather(-1, rival[:, None]).squeeze(-1) - view.logits.logsumexp(-1)
        return view.token_mean(weight * (1 + view.logp.exp() - rival_logp.exp()))
