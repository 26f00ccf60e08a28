"""The rows as they are: what most papers show (Maini et al., 2024, arXiv:2401.06121).

    forget = the request's pairs and texts,   retain = the retain set

Needs: nothing.
Differs from the paper: nothing.
Differs from the authors' code: nothing.
Fails when: the fact is known in other words than those of the rows; the objective then never sees them.
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
        return Shown([record.example() for record in forget], [record.example() for record in retain], [])
