"""One run of the loop from the target model: what most papers do (Maini et al., 2024, arXiv:2401.06121).

    θ_0 = target;   θ_{s+1} = θ_s - AdamW( ∇[ γ L_forget + α R_retain ] )

Needs: what its axes need.
Differs from the paper: nothing.
Differs from the authors' code: an own loop, so that one optimiser step is one gradient however it is cut up.
Fails when: the number of steps is chosen by looking at the retrained model; see `train.select`.
"""

from typing import ClassVar

from expunge.config import Settings


class Plain(Settings):
    claim: ClassVar = "approximate"
    forgets: ClassVar = True
    start: ClassVar = "target"
