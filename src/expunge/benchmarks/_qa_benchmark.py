"""What every question-answer benchmark in TOFU's layout is: rows, a half that counts, and figures from records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from expunge.benchmarks._asks import Asks, Replies
from expunge.benchmarks._benchmark import Benchmark
from expunge.benchmarks._qa import (
    Dialect,
    Half,
    Level,
    Record,
    Roles,
    Table,
    asks_of,
    fluency_figures,
    half_of,
    judge_answers,
    keep_half,
    level_of,
    membership_figure,
    rows_of,
    tofu_figures,
)
from expunge.data.dataset import Dataset
from expunge.errors import DataError
from expunge.types import Figure, LanguageModel, Probe


class QABenchmark(Benchmark):
    """The forget people are split in two: settings are chosen on one `half` ("select"), figures are those of the other."""

    roles: ClassVar[Roles]
    max_new_tokens: ClassVar[int]
    dialect: Dialect
    half: Half

    def asks(self) -> Asks:
        return asks_of(self.tasks(), self.max_new_tokens)

    def rows(self, replies: Replies) -> list[Record]:
        return rows_of(self.tasks(), self.max_new_tokens, replies)

    def judge(self, rows: list[Record], judge: LanguageModel | None) -> list[Record]:
        """With the plausibility of the forget answers under the judge."""
        return judge_answers(rows, judge, (self.roles.forget,))

    def shown(self, rows: dict[str, list[Record]]) -> dict[str, Any]:
        """Truth ratios and answers of every model, side by side."""
        return {
            "roles": self.roles._asdict(),
            "truth_ratios": {who: self.truth_ratios(found) for who, found in rows.items()},
            "answers": {who: [record["generation"] for record in found] for who, found in rows.items()},
        }

    @abstractmethod
    def of_half(self, half: Half) -> Self:
        """The same benchmark, counting another half of the forget people."""

    @abstractmethod
    def dataset(self) -> Dataset:
        """What methods are given."""

    @abstractmethod
    def tasks(self) -> dict[str, list[Probe]]:
        """All rows of every task; `figures` keeps the half that is asked for."""

    @abstractmethod
    def probe_tasks(self) -> dict[str, list[Probe]]:
        """Fewer rows, for the points of a trajectory."""

    @abstractmethod
    def refusals(self) -> tuple[str, ...]:
        """Other answers for methods that need them; may be empty."""

    def forget_probes(self) -> list[Probe]:
        """The rows that attacks try to bring back: those of the half that is asked for."""
        probes = self.tasks()[self.roles.forget]
        kept = half_of([probe.subject for probe in probes], self.half)
        return [probe for probe in probes if probe.subject in kept]

    def other_forget_probes(self) -> list[Probe]:
        """Forget rows of all other people: what an attacker may train on. Raises DataError when everybody is asked for."""
        subjects = self.forget_subjects()
        found = [probe for probe in self.tasks()[self.roles.forget] if probe.subject not in subjects]
        if not found:
            raise DataError(
                f"{self.name}: half '{self.half}' counts every forget subject, so nobody is left to train on.\n"
                "Take one half of at least two subjects:  --half report"
            )
        return found

    def forget_subjects(self) -> set[str]:
        """The people of the half that is asked for."""
        return {probe.subject for probe in self.forget_probes()}

    def truth_ratios(self, records: Sequence[Record]) -> list[float] | None:
        """Of the forget rows that count, or None where they have no likelihood."""
        table, forget = self._table(records), self.roles.forget
        return None if table.why_no_likelihood(forget) else table.ratios(forget).tolist()

    def level(self, records: Sequence[Record]) -> Level:
        """Where the forget rows that count stand between known and unknown."""
        return level_of(self._table(records))

    def figures(
        self,
        rows: Sequence[Record],
        gold: Sequence[Record] | None = None,
        target: Sequence[Record] | None = None,
    ) -> dict[str, Figure]:
        """TOFU's figures, fluency of the forget answers, and membership where there are rows that were never trained."""
        table = self._table(rows)
        found = tofu_figures(table, self._table(gold) if gold is not None else None)
        found |= fluency_figures(table, self.roles.forget)
        if "holdout" in table.tasks:
            found["membership/auc"] = membership_figure(table, self.roles.forget, "holdout")
        return found

    def _table(self, records: Sequence[Record]) -> Table:
        return Table(keep_half(records, self.roles.forget, self.half), self.roles, self.dialect)
