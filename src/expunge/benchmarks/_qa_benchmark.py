"""What every question-answer benchmark in TOFU's layout is: rows, a half that counts, and figures from records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

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
    half_of,
    judge_answers,
    keep_half,
    level_of,
    rows_of,
)
from expunge.benchmarks._qa_figures import all_figures
from expunge.benchmarks._qa_membership import HOLDOUT
from expunge.data.dataset import Dataset
from expunge.errors import DataError
from expunge.types import Figure, LanguageModel, Probe

FOLDS = 4
Kind = Literal["scalability", "sustainability"]


def qa_columns(*tasks: tuple[str, str, str]) -> tuple[tuple[str, str, str], ...]:
    """The columns of every question-answer benchmark; `tasks` are those of its own parts."""
    return (
        (
            "forget_quality/ks_p",
            "KS p",
            "is the truth ratio drawn like the gold's? above 0.05: not told apart at this n",
        ),
        (
            "forget_quality/ks_distance",
            "KS distance",
            "largest gap of the two distributions; compare with the noise floor",
        ),
        ("model_utility", "utility", "harmonic mean of nine numbers; hides which part suffers"),
        ("forget/accuracy", "forget", "share of forget questions whose fact is still answered"),
        *tasks,
        (
            "forget/fluency",
            "fluency",
            "would the gold have written these words? compare with the gold's own value",
        ),
        (
            "membership/auc",
            "membership",
            "forget rows against never-trained ones by likelihood; 0.5 is no trace, below is over-forgotten",
        ),
        (
            "membership/priv_leak",
            "PrivLeak",
            "membership by the least likely tokens beside the gold's own, per cent; 0 is as in the gold, -100 still recognised, above 0 over-forgotten",
        ),
        (
            "forget/extraction_strength",
            "ES",
            "share of a forget answer that the model completes by itself; compare with the gold's own",
        ),
        (
            "forget/exact_memorisation",
            "EM",
            "share of a forget answer's words that the model would have written; compare with the gold's own",
        ),
        (
            "overall/score",
            "overall",
            "harmonic mean of what is not memorised, privacy and utility; its note names the part that is lowest",
        ),
        (
            "overall/robust_utility",
            "robust utility",
            "what is left of the nine parts of utility, on average; its note names the part of which least is left",
        ),
    )


class QABenchmark(Benchmark):
    """The forget people are split in two: settings are chosen on one `half` ("select"), figures are those of the other."""

    roles: ClassVar[Roles]
    max_new_tokens: ClassVar[int]
    dialect: Dialect
    half: Half
    gradients: bool = False
    """Whether the gradient norms of forget and never-trained answers are asked for."""
    no_holdout: str = "there are no rows that were never trained on"
    """Why there is no membership where there are no such rows."""

    def asks(self) -> Asks:
        return asks_of(
            self.tasks(), self.max_new_tokens, (self.roles.forget, HOLDOUT) if self.gradients else ()
        )

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

    def folds(self, kind: Kind) -> list[Dataset]:
        """Continual forgetting, after MUSE: the forget subjects in four parts, in order; fewer subjects, fewer parts. The retain set stays.

        "scalability": nested forget sets, 1/4 to all of them. "sustainability": disjoint quarters, to be forgotten one after the other.
        """
        data = self.dataset()
        groups = list(dict.fromkeys(row.group or row.id for row in data.forget))
        count = min(FOLDS, len(groups))
        edges = [round(len(groups) * i / count) for i in range(count + 1)]
        spans = [(0 if kind == "scalability" else low, high) for low, high in pairwise(edges)]
        return [
            replace(data, forget=tuple(row for row in data.forget if (row.group or row.id) in kept))
            for kept in (set(groups[low:high]) for low, high in spans)
        ]

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
        """TOFU's figures, fluency of the forget answers, what is memorised, membership where there are rows that were never trained,
        and the overall score.
        """
        beside = (self._table(other) if other is not None else None for other in (gold, target))
        return all_figures(self._table(rows), *beside, no_holdout=self.no_holdout, gradients=self.gradients)

    def _table(self, records: Sequence[Record]) -> Table:
        return Table(keep_half(records, self.roles.forget, self.half), self.roles, self.dialect)
