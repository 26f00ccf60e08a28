"""SimNPO: NPO without a reference, by length (Fan et al., 2024, arXiv:2410.07163).

    L(θ) = -(2/β) · mean over forget rows of  log σ( -(β/|y|) · log π_θ(y|x) - γ )

The mean log-probability of a row takes the place of its ratio to a reference, so short and long answers are pushed alike
and answers that were never likely are left alone.
Needs: forget pairs or texts; nothing else.
Differs from the paper: nothing; |y| counts the answer's tokens with its end token.
Differs from the authors' code: they divide by unshifted label counts, which is the same unless the first token is an answer token.
Fails when: the two coefficients are left at 1: the authors' TOFU runs weigh the forget side by about 0.13 against retain 1.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from expunge.config import Settings
from expunge.types import Streams


class SimNPO(Settings):
    needs: ClassVar = frozenset({"forget"})
    weighted: ClassVar = False

    beta: float = Field(2.5, gt=0)
    """Per nat of mean log-probability; the paper's TOFU values are 2.5 (forget05) and 4.5 (forget10)."""
    gamma: float = 0.0
    """Margin γ inside the link, as the paper writes it (open-unlearning's δ is γ/β)."""

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        mean = view.sequence_sum(view.logp) / view.length  # [batch] nats per token
        return view.sequence_mean(2 / self.beta * softplus(self.beta * mean + self.gamma))
