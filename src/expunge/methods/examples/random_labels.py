"""Random labels: each forget question with the answer of another row, as O3 trains its adapters (Gao et al., 2024, arXiv:2407.10223).

    y'_1 ... y'_k ~ U( answers of F ∪ R, each once )  without  y

Needs: question-answer pairs on the forget side.
Differs from the paper: answers of other rows stand for labels, as open questions have no set of them.
Differs from the authors' code: only answer tokens are trained; theirs trains the prompt's too.
Fails when: two rows say the same in other words: only an equal answer is known to be the row's own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.config import Settings
from expunge.errors import DataError
from expunge.methods._words import words
from expunge.methods.examples._given import pairs
from expunge.types import Example, Given, Shown

if TYPE_CHECKING:
    from expunge.data.dataset import Record


class RandomLabels(Settings):
    needs: ClassVar = frozenset({"alternate", "pairs"})

    count: int = Field(1, ge=1)
    """Labels drawn for each row; with several, each epoch takes one."""

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        rows = pairs(forget, "random_labels")
        labels = {tuple(words(row.answer)): row.answer for row in [*rows, *retain] if row.shape == "pair"}
        shown = [row.example() for row in rows]
        alternates = []
        for number, (row, example) in enumerate(zip(rows, shown, strict=True)):
            others = [label for said, label in labels.items() if said != tuple(words(row.answer))]
            if len(others) < self.count:
                raise DataError(
                    f"random_labels: forget row {row.id} needs {self.count} answers of other rows, and there are {len(others)}. Give retain rows."
                )
            draw = random.Random(given.seed.child("random_labels", number, row.id).number)
            alternates.append(
                [Example(example.prompt, text, row.id) for text in draw.sample(others, self.count)]
            )
        return Shown(shown, [row.example() for row in retain if row.shape != "subject"], alternates)
