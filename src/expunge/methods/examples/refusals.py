"""Refusals as the other answers: what "I don't know" tuning shows (Maini et al., 2024, arXiv:2401.06121).

    alternates of a forget question = { "I don't know.", "I'm not sure about that.", ... }

Needs: forget rows that are question-answer pairs.
Differs from the paper: ten built-in refusals; TOFU's hundred are taken with --refusals.
Differs from the authors' code: the refusal is drawn once per row and epoch by a seeded generator, not on every access.
Fails when: refusing is itself what must not be seen: it tells that something was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.config import Settings
from expunge.types import Example, Given, Shown

if TYPE_CHECKING:
    from expunge.data.dataset import Record


class Refusals(Settings):
    needs: ClassVar = frozenset({"alternate", "pairs"})

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        rows = [record.example() for record in forget]
        others = [[Example(row.prompt, text, row.id) for text in given.refusals] for row in rows]
        return Shown(rows, [record.example() for record in retain], others)
