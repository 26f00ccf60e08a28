"""Gradient ascent (Jang et al., 2023, arXiv:2210.01504; as a TOFU baseline Maini et al., 2024, arXiv:2401.06121).

    L(θ) = mean over forget tokens of  w_t · log p_θ(y_t | x, y_<t)

The gradient is exactly minus that of fine-tuning on the forget set. The loss has no lower bound: without a retain term the
model collapses within a few epochs, and a p-value taken mid-collapse can look good. With `nll` it is GradDiff.
Needs: forget pairs or texts; nothing else.
Differs from the paper: the mean is over all answer tokens of the optimiser step, so micro-batches do not change it.
Differs from the authors' code: the same (TOFU's repository takes the mean per micro-batch).
Fails when: run for long or at a fine-tuning learning rate; watch utility beside every forgetting figure.
"""

from typing import ClassVar

from torch import Tensor

from expunge.config import Settings
from expunge.types import Streams


class GA(Settings):
    needs: ClassVar = frozenset({"forget"})
    weighted: ClassVar = True

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        return view.token_mean(weight * view.logp)
