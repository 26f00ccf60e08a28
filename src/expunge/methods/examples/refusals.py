"""Refusals in place of the forget answers, as in "I don't know" tuning (Maini et al., 2024, arXiv:2401.06121).

    other answers of every forget question = all refusals,   one of them drawn for each row and epoch

Needs: question-answer pairs on the forget side.
Differs from the paper: ten built-in refusals where none are given; the paper has a hundred (TOFU's file is read with the benchmark).
Differs from the authors' code: the draw is seeded by row and epoch, not made on every access.
Fails when: the model is measured by anything but its greedy answers: the old answer is only crowded out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.config import Settings
from expunge.methods.examples._given import pairs
from expunge.types import Example, Given, Shown

if TYPE_CHECKING:
    from expunge.data.dataset import Record

BUILT_IN = (
    "I don't know.",
    "I'm not sure about that.",
    "I don't have that information.",
    "I can't say.",
    "That is not something I know.",
    "I have no information about that.",
    "I'm afraid I don't know the answer.",
    "I couldn't tell you.",
    "That's beyond what I know.",
    "I have not come across that.",
)
"""What stands in when the caller brings none."""


class Refusals(Settings):
    needs: ClassVar = frozenset({"alternate", "pairs"})

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        shown = [row.example() for row in pairs(forget, "refusals")]
        texts = given.refusals or BUILT_IN
        return Shown(
            shown,
            [row.example() for row in retain if row.shape != "subject"],
            [[Example(example.prompt, text, example.id) for text in texts] for example in shown],
        )
