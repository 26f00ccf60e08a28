"""Direct Preference Optimization towards a refusal (Rafailov et al., 2023, arXiv:2305.18290; for unlearning arXiv:2404.05868).

    L(θ) = -(2/β) · mean over rows of  log σ( β · [ (log π_θ(y_a|x) - log π_ref(y_a|x)) - (log π_θ(y_f|x) - log π_ref(y_f|x)) ] )

y_f is the answer to forget, y_a another answer to the same question: a refusal by default ("IdkDPO").
Needs: another answer per forget row, and two numbers per row from the frozen starting model (cached).
Differs from the paper: the factor 2/β instead of 1, as NPO's comparison writes it; it only scales the learning rate.
Differs from the authors' code: the refusal is drawn once per row and epoch by a seeded generator, so the reference can be
cached; public code draws on every access.
Fails when: refusals are much shorter than answers: the sum over tokens then favours them before anything is forgotten.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from expunge.config import Settings
from expunge.types import Streams


class DPO(Settings):
    needs: ClassVar = frozenset({"forget", "alternate", "ref_logp"})
    weighted: ClassVar = False

    beta: float = Field(0.1, gt=0)
    """Inverse temperature, per nat of the whole answer."""

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        win, lose = streams.alternate, streams.forget
        gain = [view.sequence_sum(view.logp) - view.ref_logp for view in (win, lose)]  # [batch] nats each
        return lose.sequence_mean(2 / self.beta * softplus(-self.beta * (gain[0] - gain[1])))
