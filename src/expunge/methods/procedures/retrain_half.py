"""Training again without the forget set for half the epochs: the control that DP2Unlearning needs (no paper of its own).

    θ_0 = base;   θ* = the retain set for half as many epochs as `retrain`

A method that starts from a base which hardly learned anything, and then trains on the retain set for half the time, has to be
better than this.
Needs: the base model from which the target was trained, and the retain set.
Differs from the paper: the control is missing there (arXiv:2504.13774).
Differs from the authors' code: no code.
Fails when: the base model itself has seen the forget data; then "exact" holds only for the training done here.
"""

from typing import ClassVar

from expunge.config import Settings


class RetrainHalf(Settings):
    claim: ClassVar = "exact"
    forgets: ClassVar = False
    start: ClassVar = "base"
    epoch_share: ClassVar = 0.5
