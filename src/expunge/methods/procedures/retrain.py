"""Training again without the forget set: the gold standard (TOFU's retain model; Maini et al., 2024, arXiv:2401.06121).

    θ_0 = base;   θ* = argmin over the retain set of the same loss, with the same settings and number of epochs

The forget set is never opened. Everything else is measured against this model.
Needs: the base model from which the target was trained, and the retain set.
Differs from the paper: nothing.
Differs from the authors' code: nothing.
Fails when: the base model itself has seen the forget data; then "exact" holds only for the training done here.
"""

from typing import ClassVar

from expunge.config import Settings


class Retrain(Settings):
    claim: ClassVar = "exact"
    forgets: ClassVar = False
    start: ClassVar = "base"
