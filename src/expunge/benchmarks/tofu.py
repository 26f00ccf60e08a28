"""TOFU: fictitious authors (Maini et al., 2024, arXiv:2401.06121).

Question it answers: does the model answer about the forgotten authors as a model that never met them, and everything else as
before? Data: the 4,000 pairs and evaluation rows, from a folder of JSONL files or a hub id. Protocol: greedy answers,
length-normalised likelihoods with the end token, three dialects of the same formulas (see DIALECTS in `_qa`).
Deviations: the answer is tokenised together with its prompt; rows beyond the dialect's cut are measured and kept, not counted.
A good result: KS p above 0.05 with a distance near the noise floor, at the utility of the gold. A bad one: p near zero with
the target's utility (nothing happened) or p of any size with no utility or no fluency (the model is gone).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from expunge.benchmarks._data import read_table
from expunge.benchmarks._qa import DIALECTS, Half, Record, Roles, Table, tofu_figures
from expunge.benchmarks._qa_benchmark import QABenchmark
from expunge.config import Settings
from expunge.data.dataset import Dataset, read_rows
from expunge.data.dataset import Record as Row
from expunge.errors import ConfigError, DataError, did_you_mean
from expunge.metrics import probability, truth_ratio
from expunge.types import Figure, Probe

AUTHORS, PAIRS = 200, 20
SHARES = {"forget01": 2, "forget05": 10, "forget10": 20}
"""Split to forgotten authors, of 200: always the last ones."""
FILES = ("full", "forget10_perturbed", "retain_perturbed", "real_authors", "world_facts")


class TofuOptions(Settings):
    split: str = "forget10"
    """forget01, forget05 or forget10."""
    authors: int | None = None
    """A subset of so many whole authors, the split's share of them forgotten."""
    dialect: str = "tofu"
    """Whose formulas: tofu, tofu-paper or openunlearning."""
    half: Half = "all"
    """Which half of the forgotten authors counts: select, report or all."""
    template: str = "auto"
    """How a question becomes a prompt: auto (the tokenizer's chat template, else qa), llama2, qa, chat."""


class Tofu(QABenchmark):
    version: ClassVar = 1
    name: ClassVar = "tofu"
    roles: ClassVar = Roles("forget", "retain", "real_authors", "world_facts")
    data_is: ClassVar = "a folder of TOFU's JSONL files, or a hub id such as locuslab/TOFU"
    Options: ClassVar = TofuOptions
    max_new_tokens: ClassVar = 200

    @classmethod
    def open(cls, data: str | Path, **options: Any) -> Self:
        """TOFU from a folder or the hub. Raises ConfigError or DataError."""
        return cls(data, **cls.parse(options).model_dump())

    def __init__(
        self,
        data: str | Path,
        split: str = "forget10",
        authors: int | None = None,
        dialect: str = "tofu",
        half: Half = "all",
        template: str = "auto",
    ):
        """`data`: a folder with TOFU's files, or a hub id. `authors`: a subset of whole authors, the split's share of them
        forgotten (at least one). `half` "select" or "report" counts one half of the forgotten authors. Raises ConfigError or DataError.
        """
        if split not in SHARES:
            raise ConfigError(
                f"--split {split}: no such split.{did_you_mean(split, SHARES)} TOFU has {', '.join(SHARES)}."
            )
        if dialect not in DIALECTS:
            raise ConfigError(
                f"--dialect {dialect}: no such dialect.{did_you_mean(dialect, DIALECTS)} There are {', '.join(DIALECTS)}."
            )
        if authors is not None and not 2 <= authors <= AUTHORS:
            raise ConfigError(f"--authors {authors}: expected 2 to {AUTHORS}.")
        self.split, self.dialect, self.half, self.template = split, DIALECTS[dialect], half, template
        self.authors = authors or AUTHORS
        self.forgotten = (
            SHARES[split] if authors is None else max(1, round(SHARES[split] * authors / AUTHORS))
        )
        self.files = {name: list(_read(data, name)) for name in FILES}
        path = Path(data) / "idontknow.jsonl"
        self._refusals = tuple(row["answer"] for _, row in read_rows(path)) if path.is_file() else ()
        if len(self.files["full"]) != AUTHORS * PAIRS:
            raise DataError(
                f"{data}: the full set has {len(self.files['full'])} rows, TOFU has {AUTHORS * PAIRS}. Use the unchanged files."
            )

    def refusals(self) -> tuple[str, ...]:
        """TOFU's hundred refusals, where the folder has them."""
        return self._refusals

    def of_half(self, half: Half) -> Tofu:
        """The same benchmark, counting another half of the forgotten authors."""
        other = copy.copy(self)
        other.half = half
        return other

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "benchmark": self.name,
            "version": self.version,
            "split": self.split,
            "authors": self.authors,
            "dialect": self.dialect.name,
            "half": self.half,
            "template": self.template,
        }

    def dataset(self) -> Dataset:
        """Forget and retain pairs of the split (or of the subset of authors); forget rows bring their evaluation rewrites,
        which a guard's strength may be chosen on in the selection half.
        """
        forget = [
            Row.from_probe(_probe(row)) for row in self.files["forget10_perturbed"][-self.forgotten * PAIRS :]
        ]
        retain = self.files["full"][: (self.authors - self.forgotten) * PAIRS]
        rows = [
            Row(str(i), row["question"], row["answer"], group=f"author {i // PAIRS}")
            for i, row in enumerate(retain)
        ]
        return Dataset(tuple(replace(row, subject="") for row in forget), tuple(rows))

    def tasks(self) -> dict[str, list[Probe]]:
        """Evaluation rows. Of the retain authors, the first 20 have them."""
        retained = min(20, self.authors - self.forgotten)
        return {
            "forget": [_probe(row) for row in self.files["forget10_perturbed"][-self.forgotten * PAIRS :]],
            "retain": [_probe(row) for row in self.files["retain_perturbed"][: retained * PAIRS]],
            "real_authors": [_probe(row, subject=False) for row in self.files["real_authors"]],
            "world_facts": [_probe(row, subject=False) for row in self.files["world_facts"]],
        }

    def probe_tasks(self) -> dict[str, list[Probe]]:
        """Fewer rows, for the points of a trajectory: all forget rows, every fourth of the others."""
        return {task: probes if task == "forget" else probes[::4] for task, probes in self.tasks().items()}


def figures(
    records: Sequence[Record], gold: Sequence[Record] | None, dialect: str = "tofu"
) -> dict[str, Figure]:
    """TOFU's figures from records, with or without those of a gold model. Raises DataError for records that are not TOFU's."""
    table = Table(records, Tofu.roles, DIALECTS[dialect])
    missing = {"forget"} - set(table.tasks)
    if missing:
        raise DataError(f"the log has no rows of task 'forget' (tasks: {', '.join(table.tasks) or 'none'}).")
    return tofu_figures(table, Table(gold, Tofu.roles, DIALECTS[dialect]) if gold is not None else None)


def log_figures(records: Sequence[Record], gold: Sequence[Record] | None) -> dict[str, dict[str, Figure]]:
    """Every figure that TOFU's code bases take from a log, by dialect: those of `figures`, and for each task the
    probability with and without options and the three readings of the truth ratio.
    """
    found = {}
    for dialect in DIALECTS:
        shown = figures(records, gold, dialect)
        table = Table(records, Tofu.roles, DIALECTS[dialect])
        for task, rows in table.tasks.items():
            ratios, epsilon = table.ratios(task), table.dialect.epsilon
            readings = {
                "probability_plain": float(probability.probability(table.nll(task)).mean()),
                "probability_with_options": float(
                    probability.probability_with_options(
                        table.nll(task), table.losses(task, "avg_pert_loss"), epsilon
                    ).mean()
                ),
                "truth_ratio_closer_to_one": truth_ratio.closer_to_one(ratios, epsilon),
                "truth_ratio_true_better": truth_ratio.true_better(ratios),
                "truth_ratio_knowledge": truth_ratio.knowledge(
                    table.losses(task, "avg_para_loss"), table.losses(task, "avg_pert_loss"), epsilon
                ),
            }
            shown |= {f"{task}/{name}": Figure(value, len(rows)) for name, value in readings.items()}
        found[dialect] = shown
    return found


LOG_FIELDS = {
    "task": str,
    "idx": int,
    "avg_gt_loss": (int, float),
    "avg_para_loss": (int, float),
    "avg_pert_loss": list,
    "rougeL_recall": (int, float),
}


def read_log(path: Path) -> list[Record]:
    """Records from a log in the format of TOFU's published runs. Raises DataError naming line and field."""
    records = []
    for where, row in read_rows(path):
        for field, kind in LOG_FIELDS.items():
            if field not in row:
                raise DataError(
                    f"{where}: no field '{field}' (fields: {', '.join(row)}). A log row has {', '.join(LOG_FIELDS)}."
                )
            if not isinstance(row[field], kind) or isinstance(row[field], bool):
                raise DataError(f"{where}: field '{field}' is {row[field]!r}.")
        if not row["avg_pert_loss"] or not all(
            isinstance(loss, (int, float)) for loss in row["avg_pert_loss"]
        ):
            raise DataError(
                f"{where}: field 'avg_pert_loss' is {row['avg_pert_loss']!r}; expected a list of numbers."
            )
        records.append(row)
    if not records:
        raise DataError(f"{path} has no rows.")
    return records


def _read(data: str | Path, name: str) -> Iterator[dict[str, Any]]:
    """Rows of one of FILES, from a folder or the hub."""
    config = name if name in ("full", "forget10_perturbed", "retain_perturbed") else f"{name}_perturbed"
    return (row for _, row in read_table(data, name, config=config, files=FILES))


def _probe(row: dict[str, Any], subject: bool = True) -> Probe:
    return Probe(
        id=str(row.get("id", "")),
        question=row["question"],
        answer=row["answer"],
        paraphrased_question=row.get("paraphrased_question", ""),
        paraphrased_answer=row.get("paraphrased_answer", ""),
        perturbed_answer=tuple(row["perturbed_answer"]),
        subject=f"author {row['author']}" if subject else "",
    )
