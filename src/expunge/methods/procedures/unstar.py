"""The loop of UnStar: ask, falsify what is still right, train on it, ask more simply (Sinha et al., 2024, arXiv:2410.17050).

    Q_0 = F;   K_n = { q in Q_n : match( θ_n(q), truth ) };   θ_{n+1} = imitate( θ_n, falsified K_n );   Q_{n+1} = Q_n ∪ easier(F - K_n)

Every round asks the model as it stands. What it still answers right is trained on with falsified answers; facts that it seems to
have lost are asked for in other, easier words from the second round on, and join the questions. It ends when nothing is right.
Needs: question-answer pairs, a writer, data `anti_samples` (refusals would work too), an objective that imitates.
Differs from the paper: the questions about a fact are those of the forget rows and their rewordings, not twenty that a model made up;
the match is by words and edit similarity.
Differs from the authors' code: the rounds are bounded and kept, what still matches at the end is counted, all questions are asked in
one batch, and retain rows stand beside each round; theirs loops until fifty questions are answered wrong, for one hard-coded subject.
Fails when: the model is small or the rounds are few: training on the few facts that are left brings some of the others back, so
the number still told falls and rises. The last round in the record says how many there are at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.methods._words import matches
from expunge.types import Course, GenerationParams, LanguageModel, Prompt, Stage

if TYPE_CHECKING:
    from expunge.data.dataset import Record


class UnStar(Settings):
    claim: ClassVar = "approximate"
    forgets: ClassVar = True
    start: ClassVar = "target"
    asks: ClassVar = True
    implies: ClassVar = {"data": "anti_samples", "objective": "imitate"}

    rounds: int = Field(5, ge=1)
    """Most rounds of training. The authors set no bound."""
    questions: int = Field(2, ge=0)
    """Easier questions a round for each fact that seems lost, from the second round on."""
    answer_tokens: int = Field(64, ge=1)
    """Longest answer that is looked at."""

    def stage(self, number: int, course: Course) -> Stage | None:
        """What round `number` (from 0) trains on, or None at the end. `course.memory["rounds"]` keeps what every round found."""
        facts = [[row] for row in course.forget if row.shape == "pair"]  # the questions about each
        if not facts:
            raise DataError("unstar asks forget questions, and no forget row is a question-answer pair.")
        history: list[dict[str, Any]] = course.memory.setdefault("rounds", [])
        del history[number:]  # a round that was cut off is asked again
        for past in history:
            _join(facts, past["new_questions"])
        told = still_told([row for fact in facts for row in fact], course.model, self.answer_tokens)
        new: dict[str, list[str]] = {}
        if number and self.questions:
            ids = {row.id for row in told}
            lost = [i for i, fact in enumerate(facts) if not ids & {row.id for row in fact}]
            new = self._easier(lost, facts, course)
            told += still_told(_join(facts, new), course.model, self.answer_tokens)
        trains = bool(told) and number < self.rounds
        history.append(
            {
                "asked": sum(map(len, facts)),
                "still_told": [row.id for row in told],
                "new_questions": new,
                "trained": trains,
            }
        )
        return Stage(course.recipe, course.show(told), name=f"round {number + 1}") if trains else None

    def _easier(
        self, lost: Sequence[int], facts: Sequence[Sequence[Record]], course: Course
    ) -> dict[str, list[str]]:
        """New questions about facts that seem lost, by the fact's place; those for which the writer has none are left out."""
        if course.writer is None:
            raise ConfigError(
                "unstar asks in other words, and the writer is 'none'. Take one:  --writer borrow,  or  --set procedure.questions=0"
            )
        if not lost:
            return {}
        most = self.questions + max(len(facts[i]) for i in lost) - 1  # those that were asked may come again
        written = course.writer.questions([facts[i][0] for i in lost], most)
        found = {}
        for i, texts in zip(lost, written, strict=True):
            old = {row.question for row in facts[i]}
            found[str(i)] = [text for text in dict.fromkeys(texts) if text not in old][: self.questions]
        return {i: texts for i, texts in found.items() if texts}


def still_told(rows: Sequence[Record], model: LanguageModel, tokens: int) -> list[Record]:
    """The rows whose fact the model's greedy answer tells."""
    answers = model.generate(
        [Prompt.ask(row.question) for row in rows], GenerationParams(max_new_tokens=tokens)
    )
    return [row for row, said in zip(rows, answers, strict=True) if matches(said[0].text, row)]


def _join(facts: Sequence[list[Record]], questions: dict[str, list[str]]) -> list[Record]:
    """Put new questions to their facts; returns them as rows."""
    joined = []
    for i, texts in questions.items():
        fact = facts[int(i)]
        for text in texts:
            fact.append(replace(fact[0], id=f"{fact[0].id} / {len(fact)}", question=text))
            joined.append(fact[-1])
    return joined
