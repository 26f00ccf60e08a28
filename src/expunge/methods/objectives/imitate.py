"""Imitate another answer: "I don't know" tuning, also called PO (Maini et al., 2024, arXiv:2401.06121).

    L(θ) = - mean over tokens of the other answers of  log p_θ(a_t | x, a_<t)

Ordinary fine-tuning on the forget questions with other answers: a refusal by default. The old answer is never pushed down,
only crowded out at the first words; given those words, much of it is usually still there.
Needs: another answer per forget row.
Differs from the paper: nothing.
Differs from the authors' code: the refusal is drawn once per row and epoch by a seeded generator, not on every access.
Fails when: measured by anything but greedy answers: truth ratios stay far from a retrained model's.
"""

from typing import ClassVar

from torch import Tensor

from expunge.config import Settings
from expunge.types import Streams


class Imitate(Settings):
    needs: ClassVar = frozenset({"alternate"})
    weighted: ClassVar = False

    def __call__(self, streams: Streams, weight: Tensor) -> Tensor:
        view = streams.alternate
        return view.token_mean(-view.logp)
