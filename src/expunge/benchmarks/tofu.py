"""TOFU: fictitious authors (Maini et al., 2024, arXiv:2401.06121).

Question: does the model answer about the forgotten authors as a model that never met them, and everything else as before?
Data: 4,000 question-answer pairs about 200 invented authors, 20 a piece in order; 100 questions about real authors, 117 about the world. A split
forgets the last authors: forget01, 05 and 10 are the last 40, 200 and 400 pairs; forget20, 30, 50 and 90 are cut the same way (by NPO's authors).
Rewrites (one right answer in other words, five wrong ones) exist for the first 20 and the last 20 authors, so retain is measured on the first 20,
and a split larger than forget10 on the last 20 of those that it forgets. Never-trained rows (holdout01, 05, 10) came later, on the hub.
Protocol: greedy answers of at most 200 tokens. P(a|q) = exp(-mean NLL) over the answer's tokens with the end token; ROUGE-L recall with stemming;
truth ratio R over the wrong answers. Then
    probability    = P(a|q); for real authors and world facts P(a|q) / (P(a|q) + Σ P(wrong|q))
    truth ratio    = mean min(R, 1/R) for forget, mean max(0, 1 - R) elsewhere
    model utility  = harmonic mean of probability, ROUGE and truth ratio of retain, real authors and world facts
    forget quality = p of the two-sided Kolmogorov-Smirnov test of R against the gold's R on the same rows
Three dialects of these. `tofu`: geometric mean over wrong answers, first 300 rows of forget and retain; the script behind the published tables.
`tofu-paper`: arithmetic mean, as the paper's formula; other script, same repository. `openunlearning`: geometric, all rows, 1e-10 in denominators.
Values of different dialects do not compare: p depends on the number of rows. Beside p stand its distance, Cliff's delta, and what n can tell.
Extraction strength, exact memorisation and probability in other words are OpenUnlearning's; so are the membership attacks (loss and zlib with the
end token, Min-K and Min-K++ at 40 % without it, gradient norms as an option), against holdout rows where the folder has them. PrivLeak is MUSE's.
The overall score follows arXiv:2506.12618; its formulas stand in `metrics.overall`. Continual forgetting (`folds`) takes the split's authors in
quarters, nested or one after the other.
Differs from the authors' code: the answer is tokenised together with its prompt, and what the template puts before it never counts as answer. Rows
beyond the dialect's cut are measured and kept, not counted. 200 new tokens, where TOFU counts the prompt in. Forget quality has no value without a
gold. Extraction strength is 0 where nothing is right (OpenUnlearning: 1/n, and 1 for a wrong answer of one token), and absent where there is no token.
PrivLeak has no default for a missing gold (OpenUnlearning takes 0.5). Zlib reads the answer as given, not decoded again. Min-K++ does not clamp the
variance at 1e-6 as OpenUnlearning does: below 1e-12 a token's value is 0. Rows without `id` and `author` (as the authors' own) have them from their
places in the file, holdout rows 20 an author.
Good: KS p above 0.05 with a distance near the noise floor, utility near the gold's, membership and PrivLeak as the gold's, every kept share near 1.
Bad: p near 0 with the target's utility (nothing happened); p of any size with no utility or no fluency (the model is gone); p near 0 with a truth
ratio above the gold's, membership below it and PrivLeak far above 0 (over-forgotten). At 40 rows (forget01) p says little.
Published: TOFU's script on the authors' logs, utility of full / retain90 / retain95 / retain99: Llama-2-7B 0.6227 / 0.6137 / 0.6006 / 0.6207, Phi
0.5221 / 0.5320 / 0.5250 / 0.5186 (weight decay 0.01). Full against retain90: p 1.8e-21, D 0.397 (Llama); 2.2e-16, D 0.347 (Phi).
OpenUnlearning's table (docs/repro.md), Llama-2-7B, forget quality / utility / truth ratio of forget:
    method      forget01               forget05                forget10
    finetuned   1.27e-3 / .63 / .53    5.87e-14 / .63 / .51    4.35e-25 / .63 / .52
    retain      1.0 / .63 / .68        1.0 / .63 / .67         1.0 / .61 / .68
    GradAscent  1.88e-4 / .55 / .36    1.94e-119 / 0 / 8.8e-96 1.06e-239 / 0 / 2.2e-32
    GradDiff    3.02e-3 / .57 / .41    1.94e-119 / .56 / 4e-95 1.80e-229 / .58 / 1.5e-7
    IdkDPO      .1 / .56 / .67         4.02e-6 / .04 / .67     5.42e-13 / .04 / .64
    NPO         .4 / .58 / .65         .09 / .53 / .71         .42 / .54 / .73
    SimNPO      1.27e-3 / .58 / .41    1.06e-106 / .6 / 3.9e-5 1.47e-198 / .6 / 3.2e-4
    RMU         .4 / .62 / .64         9.59e-10 / .02 / .81    6.92e-21 / .03 / .81
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from expunge.artifacts.manifest import hash_of
from expunge.benchmarks._data import require
from expunge.benchmarks._qa import DIALECTS, Half, Record, Roles, Table
from expunge.benchmarks._qa_benchmark import QABenchmark, qa_columns
from expunge.benchmarks._qa_figures import all_figures
from expunge.benchmarks._qa_membership import HOLDOUT
from expunge.benchmarks._tofu_data import AUTHORS, FILES, PAIRS, REWRITTEN, SIZES, read_holdout, read_part
from expunge.config import Settings
from expunge.data.dataset import Dataset, read_rows
from expunge.data.dataset import Record as Row
from expunge.errors import ConfigError, DataError, did_you_mean
from expunge.metrics import probability, truth_ratio
from expunge.types import Figure, Probe

SHARES = {
    "forget01": 2,
    "forget05": 10,
    "forget10": 20,
    "forget20": 40,
    "forget30": 60,
    "forget50": 100,
    "forget90": 180,
}
"""Split to forgotten authors, of 200: always the last ones."""


class TofuOptions(Settings):
    split: str = "forget10"
    """forget01, forget05 or forget10; or forget20, 30, 50 or 90, which are measured on their last 20 authors."""
    authors: int | None = None
    """A subset of so many whole authors, the split's share of them forgotten."""
    dialect: str = "tofu"
    """Whose formulas: tofu, tofu-paper or openunlearning."""
    half: Half = "all"
    """Which half of the forgotten authors counts: select, report or all."""
    gradients: bool = False
    """Also attack membership by gradient norms: a backward pass for every forget and holdout answer."""
    template: str = "auto"
    """How a question becomes a prompt: auto (the tokenizer's chat template, else qa), llama2, qa, chat."""


class Tofu(QABenchmark):
    version: ClassVar = 2
    name: ClassVar = "tofu"
    roles: ClassVar = Roles("forget", "retain", "real_authors", "world_facts")
    data_is: ClassVar = "a folder of TOFU's JSONL files, or a hub id such as locuslab/TOFU"
    columns: ClassVar = qa_columns(
        ("retain/accuracy", "retain", "share of retain questions answered"),
        ("real_authors/accuracy", "real authors", "authors the base model knew"),
        ("world_facts/accuracy", "world facts", "general facts"),
    )
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
        gradients: bool = False,
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
        self.gradients = gradients
        self.authors = authors or AUTHORS
        self.forgotten = (
            SHARES[split]
            if authors is None
            else min(authors - 1, max(1, round(SHARES[split] * authors / AUTHORS)))
        )
        self.files = {name: read_part(data, name) for name in FILES}
        path = Path(data) / "idontknow.jsonl"
        self._refusals = (
            tuple(row["answer"] for row in require(read_rows(path), {"answer": str}))
            if path.is_file()
            else ()
        )
        for name, size in SIZES.items():
            if len(self.files[name]) != size:
                raise DataError(
                    f"{data}: {name} has {len(self.files[name])} rows, TOFU has {size}. Use the unchanged files."
                )
        self.holdout, self.no_holdout = read_holdout(data, split)
        self._data_hash = hash_of([self.files, self.holdout])

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
            "gradients": self.gradients,
            "template": self.template,
            "data": self._data_hash,
        }

    def dataset(self) -> Dataset:
        """Forget and retain pairs of the split (or of the subset of authors); forget rows bring their evaluation rewrites,
        which a guard's strength may be chosen on in the selection half.
        """
        rewritten = self._rewritten()
        plain = self.files["full"][-self.forgotten * PAIRS : AUTHORS * PAIRS - len(rewritten)]
        first = (AUTHORS - self.forgotten) * PAIRS
        forget = [
            *(_row(first + i, row) for i, row in enumerate(plain)),
            *(replace(Row.from_probe(_probe(row)), subject="") for row in rewritten),
        ]
        retain = self.files["full"][: (self.authors - self.forgotten) * PAIRS]
        holdout = [replace(Row.from_probe(probe), subject="") for probe in self._holdout_probes()]
        return Dataset(tuple(forget), tuple(_row(i, row) for i, row in enumerate(retain)), tuple(holdout))

    def _rewritten(self) -> list[dict[str, Any]]:
        """The forgotten pairs that have rewrites: those of the last 20 authors."""
        return self.files["forget10_perturbed"][-min(self.forgotten, REWRITTEN) * PAIRS :]

    def _holdout_probes(self) -> list[Probe]:
        return [
            _probe({"perturbed_answer": (), "author": f"holdout {i // PAIRS}", **row})
            for i, row in enumerate(self.holdout)
        ]

    def tasks(self) -> dict[str, list[Probe]]:
        """Evaluation rows. Of the retain authors the first 20 have them, of the forgotten ones the last 20."""
        retained = min(REWRITTEN, self.authors - self.forgotten)
        return {
            "forget": [_probe(row) for row in self._rewritten()],
            "retain": [_probe(row) for row in self.files["retain_perturbed"][: retained * PAIRS]],
            "real_authors": [_probe(row, subject=False) for row in self.files["real_authors"]],
            "world_facts": [_probe(row, subject=False) for row in self.files["world_facts"]],
            **({HOLDOUT: self._holdout_probes()} if self.holdout else {}),
        }

    def probe_tasks(self) -> dict[str, list[Probe]]:
        """Fewer rows, for the points of a trajectory: all forget rows, every fourth of the others."""
        return {
            task: probes if task == "forget" else probes[::4]
            for task, probes in self.tasks().items()
            if task != HOLDOUT
        }


def figures(
    records: Sequence[Record], gold: Sequence[Record] | None, dialect: str = "tofu"
) -> dict[str, Figure]:
    """TOFU's figures from records, with or without those of a gold model. Raises DataError for records that are not TOFU's."""
    table = Table(records, Tofu.roles, DIALECTS[dialect])
    missing = {"forget"} - set(table.tasks)
    if missing:
        raise DataError(f"the log has no rows of task 'forget' (tasks: {', '.join(table.tasks) or 'none'}).")
    return all_figures(
        table,
        Table(gold, Tofu.roles, DIALECTS[dialect]) if gold is not None else None,
        no_holdout="the log has no rows of task 'holdout'",
    )


def log_figures(records: Sequence[Record], gold: Sequence[Record] | None) -> dict[str, dict[str, Figure]]:
    """Every figure that TOFU's code bases take from a log, by dialect: those of `figures`, and for each task the
    probability with and without options and the three readings of the truth ratio. Raises DataError for a gold of other rows.
    """
    if gold is not None:
        refuse_other_rows(records, gold)
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


def refuse_other_rows(records: Sequence[Record], gold: Sequence[Record]) -> None:
    """Raises DataError unless both logs have the same forget rows: figures beside a gold of another split would be wrong."""
    ours, theirs = (
        {row["idx"]: row.get("reference") for row in side if row["task"] == Tofu.roles.forget}
        for side in (records, gold)
    )
    if ours == theirs:
        return
    said = f"{len(theirs)} forget rows there, {len(ours)} here"
    other = next((idx for idx in sorted(ours) if idx in theirs and ours[idx] != theirs[idx]), None)
    if other is not None:
        said += f"; row {other} is {theirs[other]!r} there and {ours[other]!r} here"
    else:
        lone = sorted(ours.keys() ^ theirs.keys())
        said += f"; {len(lone)} rows are in one of them alone, from row {lone[0]}"
    raise DataError(
        f"the gold log is of another split or size: {said}.\nTake both logs from one split and one number of rows."
    )


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
    records: list[Record] = []
    seen: set[tuple[str, int]] = set()
    wrong: dict[str, int] = {}
    for where, row in read_rows(path):
        for field, kind in LOG_FIELDS.items():
            if field not in row:
                raise DataError(
                    f"{where}: no field '{field}' (fields: {', '.join(row)}). A log row has {', '.join(LOG_FIELDS)}."
                )
            if not isinstance(row[field], kind) or isinstance(row[field], bool):
                raise DataError(f"{where}: field '{field}' is {row[field]!r}.")
        losses = row["avg_pert_loss"]
        if not losses or not all(isinstance(loss, (int, float)) for loss in losses):
            raise DataError(f"{where}: field 'avg_pert_loss' is {losses!r}; expected a list of numbers.")
        numbers = [row["avg_gt_loss"], row["avg_para_loss"], row["rougeL_recall"], *losses]
        if not all(map(math.isfinite, numbers)):
            raise DataError(
                f"{where}: a loss or ROUGE value is no number (NaN or infinite): the model that wrote this log is broken."
            )
        task, idx = row["task"], row["idx"]
        if (task, idx) in seen:
            raise DataError(f"{where}: row {idx} of task '{task}' stands in this log twice.")
        if wrong.setdefault(task, len(losses)) != len(losses):
            raise DataError(
                f"{where}: {len(losses)} losses of wrong answers, where earlier rows of task '{task}' have {wrong[task]}."
            )
        seen.add((task, idx))
        records.append(row)
    if not records:
        raise DataError(f"{path} has no rows.")
    return records


def _row(place: int, row: dict[str, Any]) -> Row:
    """A pair without rewrites, by its place in the full set."""
    return Row(str(place), row["question"], row["answer"], group=f"author {place // PAIRS}")


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
