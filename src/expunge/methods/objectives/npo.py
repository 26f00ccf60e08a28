"""Negative Preference Optimization (Zhang et al., 2024, arXiv:2404.05868).

    L(θ) = -(2/β) · mean over forget rows of  log σ( -β · ( log π_θ(y|x) - log π_ref(y|x) ) )

A row whose answer has already become unlikely is pushed less: the weight on its gradient is 2 p^β / (p^β + p_ref^β), which
is 1 at the start and falls to 0. As β -> 0 this is gradient ascent on the summed log-probability.
Needs: one number per forget row from the frozen starting model (cached before training; no second model in memory).
Differs from the paper: nothing.
Differs from the authors' code: nothing for TOFU. MUSE's and WAGLE's codes have other losses under the same name. They are kept to
reproduce published runs only, behind `compat`:

    batch:     (2/β) · log( 1 + e^{β u} ),  u = mean over the tokens of a micro-batch of  log π_θ - log π_ref
    muse2024:  (2/β) · mean over answer tokens and all v of  log( 1 + e^{β (z_v - z_v^ref)} ),  z raw logits

"batch" pushes every row alike, so what NPO adds to gradient ascent is lost, and it depends on how a step is cut: set
train.micro_batch to the published batch of one device. "muse2024" never looks at which token was given (at the start it pushes all
logits down alike), and adding a constant to all logits, which changes no probability, changes the loss; MUSE's own mean also runs
over prompt and padding.
Fails when: answers are long: β acts on the sum, so a value tuned on 60 tokens acts thirty times as strongly on 2,000.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from expunge.config import Settings
from expunge.types import Streams


class NPO(Settings):
    needs: ClassVar = frozenset({"forget", "ref_logp"})
    weighted: ClassVar = False

    beta: float = Field(0.1, gt=0)
    """Inverse temperature, per nat of the whole answer. Large: stops early; towards 0: gradient ascent. The paper's is 0.1."""

    compat: Literal["batch", "muse2024"] | None = None
    """Another loss that was published under this name, to reproduce those runs only. batch: WAGLE's. muse2024: MUSE's."""

    @property
    def needs(self) -> frozenset[str]:  # noqa: F811 - of this object; the literal above is what the class is listed with
        reference = {"logits", "ref_logits"} if self.compat == "muse2024" else {"ref_logp"}
        return frozenset({"forget"} | reference)

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.forget
        if self.compat == "muse2024":
            return view.token_mean(self._link(view.logits - view.ref_logits).mean(-1))
        if self.compat == "batch":
            mean = (view.logp.sum() - view.ref_logp.sum()) / len(view.logp)
            return self._link(mean) * len(view.length) / view.step_rows
        gain = view.sequence_sum(view.logp) - view.ref_logp  # [batch] nats, < 0 once forgetting starts
        return view.sequence_mean(self._link(gain))

    def _link(self, gain: Tensor) -> Tensor:
        return 2 / self.beta * softplus(self.beta * gain)
