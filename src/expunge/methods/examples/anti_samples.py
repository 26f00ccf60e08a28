"""Anti-samples: a falsified answer with a reason for it, UnStar (Sinha et al., 2024, arXiv:2410.17050).

    for each forget pair (x, y):  (y', r) ~ writer( "a wrong answer to x, and why" ),      match(y' + r, y) = 0

Trained on by imitation, alone or by the loop `unstar`, which shows only what the model still answers right.
Needs: question-answer pairs on the forget side; a writer.
Differs from the paper: no reasons for right answers on the retain side; retain rows are shown as they are.
Differs from the authors' code: the truth is matched by whole words and by edit similarity; theirs takes any shared word, WordNet
synonyms and the cosine of embeddings for a match. A target that names the truth is replaced by a wrong answer without a reason, or refused; theirs drops
the question from the round without a word, and tests for the exact string only.
Fails when: the row has no key words and its answer is long: a target that tells half of it is then not noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from expunge.config import Settings
from expunge.errors import DataError
from expunge.methods._words import matches
from expunge.methods.examples._given import pairs, writer_of
from expunge.types import Example, Given, Shown

if TYPE_CHECKING:
    from expunge.data.dataset import Record
    from expunge.types import Writer

REDRAWS = 8
"""Wrong answers looked at in place of a target that names the truth."""


class AntiSamples(Settings):
    needs: ClassVar = frozenset({"alternate", "writer", "pairs"})

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        rows = pairs(forget, "anti_samples")
        targets = falsified(rows, writer_of(given, "anti_samples"))
        shown = [row.example() for row in rows]
        return Shown(
            shown,
            [row.example() for row in retain if row.shape != "subject"],
            [[Example(e.prompt, target, e.id)] for e, target in zip(shown, targets, strict=True)],
        )


def falsified(rows: Sequence[Record], writer: Writer) -> list[str]:
    """A target for each row that does not tell its fact. Raises DataError naming the row for which there is none."""
    targets = writer.falsehoods(rows)
    telling = [i for i, (row, target) in enumerate(zip(rows, targets, strict=True)) if matches(target, row)]
    others = writer.alternatives([rows[i] for i in telling], REDRAWS) if telling else []
    for i, texts in zip(telling, others, strict=True):
        clean = next((text for text in texts if not matches(text, rows[i])), None)
        if clean is None:
            raise DataError(
                f"anti_samples: no falsified answer to forget row {rows[i].id} leaves out the truth; the writer gave {targets[i]!r} and {len(texts)} others.\n"
                "Use another writer, or name the words that carry the fact in the field 'key'."
            )
        targets[i] = clean
    return targets
