"""Paraphrases and distractors: what ULD's assistant is shown (Ji et al., 2024, arXiv:2406.08607).

    forget = F ∪ { m paraphrases of each pair },      retain = R ∪ { (x, y') : x asked in F, y' wrong }

The assistant has to learn the forget rows in any wording and nothing else: wrong answers to the same questions stand on the side
where it is held uniform.
Needs: question-answer pairs on the forget side; a writer.
Differs from the paper: the writer may be rules on the rows; the paper has both written by a large model.
Differs from the authors' code: the retain side is not cut to 400 rows (pairing draws as many as there are forget rows); a distractor
never is the true answer.
Fails when: the paraphrases keep the old wording, as rules do: the assistant then learns the wording, not the fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from expunge.config import Settings
from expunge.methods.examples._given import pairs, writer_of
from expunge.types import Example, Given, Prompt, Shown

if TYPE_CHECKING:
    from expunge.data.dataset import Record


class Paraphrase(Settings):
    needs: ClassVar = frozenset({"writer", "pairs"})

    count: int = Field(2, ge=0)
    """Paraphrases of each forget row. The authors take 2."""
    distractors: int = Field(2, ge=0)
    """Wrong answers to each forget question that join the retain side. The authors take 2."""

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        writer = writer_of(given, "paraphrase")
        rows = pairs(forget, "paraphrase")
        said = writer.paraphrases(rows, self.count) if self.count else []
        wrong = writer.alternatives(rows, self.distractors) if self.distractors else [[] for _ in rows]
        return Shown(
            [*(row.example() for row in rows), *(example for examples in said for example in examples)],
            [
                *(row.example() for row in retain if row.shape != "subject"),
                *(
                    Example(Prompt.ask(row.question), text, row.id)
                    for row, texts in zip(rows, wrong, strict=True)
                    for text in texts
                ),
            ],
            [],
        )
