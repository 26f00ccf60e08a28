"""Plausible other answers, AltPO (Mekala et al., 2024, arXiv:2409.13474).

    for each forget pair (x, y):  y'_1 ... y'_k ~ writer( "another answer to x with other facts than y" )

The objective then prefers y' to y (`dpo`, the paper's) or only imitates it (`imitate`). Unlike a refusal, y' is what a model that
never saw the row might say.
Needs: question-answer pairs on the forget side; a writer for rows that bring no `alternates` of their own.
Differs from the paper: the writer may also be rules on the rows (`borrow`) or an endpoint; the paper asks the target model.
Differs from the authors' code: every alternate differs from the true answer; theirs keeps whatever was sampled. The wrong answers of
a benchmark's evaluation rows are not used: the truth ratio would be measured on what was trained.
Fails when: the writer knows the fact and repeats it in other words, which only key words (`key`) can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.config import Settings
from expunge.errors import DataError
from expunge.methods.examples._given import pairs
from expunge.types import Example, Given, Shown

if TYPE_CHECKING:
    from expunge.data.dataset import Record


class Alternates(Settings):
    needs: ClassVar = frozenset({"alternate", "writer", "pairs"})

    count: int = Field(5, ge=1)
    """Other answers that the writer gives to a row that has none. The authors take 5."""

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        rows = pairs(forget, "alternates")
        bare = [row for row in rows if not row.alternates]
        if bare and given.writer is None:
            raise DataError(
                f"alternates missing: forget row {bare[0].id} has no 'alternates' ({len(bare)} of {len(rows)} rows have none), and the writer is 'none'.\n"
                "Give every row the field, or let somebody write them:  --writer borrow"
            )
        written = given.writer.alternatives(bare, self.count) if bare and given.writer else []
        found = iter(written)
        texts = [list(row.alternates) or next(found) for row in rows]
        shown = [row.example() for row in rows]
        return Shown(
            shown,
            [row.example() for row in retain if row.shape != "subject"],
            [
                [Example(e.prompt, text, e.id) for text in other]
                for e, other in zip(shown, texts, strict=True)
            ],
        )
