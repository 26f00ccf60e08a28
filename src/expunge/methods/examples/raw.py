"""Rows as they are: what most methods are shown (no paper of its own).

    forget = F,   retain = R,   no other answers

Needs: nothing.
Differs from the paper: no paper.
Differs from the authors' code: no code.
Fails when: the objective needs other answers; it then takes `refusals` or another value of this axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.config import Settings
from expunge.types import Given, Shown

if TYPE_CHECKING:
    from expunge.data.dataset import Record


class Raw(Settings):
    needs: ClassVar = frozenset()

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        return Shown(
            [row.example() for row in forget if row.shape != "subject"],
            [row.example() for row in retain if row.shape != "subject"],
            [],
        )
