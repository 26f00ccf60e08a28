"""Question-answer benchmarks in TOFU's layout: one record a row with everything measured; `_qa_figures` makes figures of them.

Each distinct (question, answer) is scored once and each question answered once, however many figures read them. The records
have the fields of TOFU's published logs, so figures can be taken from a log without any model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from expunge.benchmarks._asks import Asks, Replies, ask
from expunge.benchmarks._benchmark import NO_GOLD
from expunge.benchmarks._figures import BROKEN, FLOOR, FLOOR_SHARE, broken, loss, usable
from expunge.benchmarks._membership import attack_scores
from expunge.errors import CapabilityError, DataError, ModelError
from expunge.metrics import accuracy, fluency, intervals, probability, rouge, truth_ratio
from expunge.metrics.exact_memorisation import exact_memorisation
from expunge.metrics.extraction_strength import extraction_strength
from expunge.types import Example, GenerationParams, LanguageModel, Probe, Prompt, Score

Record = dict[str, Any]
Half = Literal["select", "report", "all"]
MEASURE = 4
"""Raised whenever the same model gives other records; part of the key under which they are cached."""
BROKEN_GRADIENT = "the model's gradients are no numbers: it is broken"


class Dialect(NamedTuple):
    """How one code base turns losses into TOFU's numbers."""

    name: str
    mean: truth_ratio.Mean
    epsilon: float
    rows: int | None
    """Only the first so many rows of the forget and retain sets count."""


DIALECTS = {
    "tofu": Dialect("tofu", "geometric", 0.0, 300),
    "tofu-paper": Dialect("tofu-paper", "arithmetic", 0.0, 300),
    "openunlearning": Dialect("openunlearning", "geometric", 1e-10, None),
}
"""tofu: the authors' aggregation script, which made the published tables. tofu-paper: the paper's formula, as another script
of the same repository has it. openunlearning: the later code base."""


class Roles(NamedTuple):
    """Which tasks play which part in TOFU's figures."""

    forget: str
    retain: str
    authors: str
    facts: str

    @property
    def utility(self) -> tuple[str, str, str]:
        return (self.retain, self.authors, self.facts)


def measure(
    model: LanguageModel,
    tasks: Mapping[str, Sequence[Probe]],
    *,
    max_new_tokens: int,
    judge: LanguageModel | None = None,
    judged: Sequence[str] = (),
) -> list[Record]:
    """One record a row, from a model at hand. `judge` scores the answers of the `judged` tasks for fluency."""
    replies = ask(model, asks_of(tasks, max_new_tokens))
    return judge_answers(rows_of(tasks, max_new_tokens, replies), judge, judged)


def asks_of(tasks: Mapping[str, Sequence[Probe]], max_new_tokens: int, gradients: Sequence[str] = ()) -> Asks:
    """The likelihood of every right and wrong answer, an answer to every question, and the gradient norms of the tasks in `gradients`."""
    probes = [probe for group in tasks.values() for probe in group]
    params = GenerationParams(max_new_tokens=max_new_tokens)
    return Asks(
        [_example(probe, answer) for probe in probes for answer in _answers(probe)],
        [(Prompt.ask(probe.question), params) for probe in probes],
        [_example(probe, probe.answer) for task in gradients for probe in tasks.get(task, ())],
    )


def _answers(probe: Probe) -> tuple[str, ...]:
    return (probe.answer, probe.right_answer, *probe.perturbed_answer)


def _example(probe: Probe, answer: str) -> Example:
    return Example(Prompt.ask(probe.question), answer, probe.id)


def rows_of(tasks: Mapping[str, Sequence[Probe]], max_new_tokens: int, replies: Replies) -> list[Record]:
    """One record a row."""
    params = GenerationParams(max_new_tokens=max_new_tokens)
    rows = [(task, number, probe) for task, probes in tasks.items() for number, probe in enumerate(probes)]
    answers = [replies.answer(Prompt.ask(probe.question), params) for _, _, probe in rows]
    texts = [written[0].text if written else None for written in answers]
    recalls = rouge.rouge_recall([text or "" for text in texts], [probe.answer for _, _, probe in rows])
    return [
        _record(task, number, probe, replies, text, recall)
        for (task, number, probe), text, recall in zip(rows, texts, recalls, strict=True)
    ]


def _record(
    task: str, number: int, probe: Probe, replies: Replies, text: str | None, recall: rouge.Rouge
) -> Record:
    gt, para, *wrong = (replies.score(_example(probe, answer)) for answer in _answers(probe))
    gradient = replies.gradient(_example(probe, probe.answer))
    scores = (gt, para, *wrong)
    why = (
        replies.why["score"] if any(score is None for score in scores) else BROKEN if broken(*scores) else ""
    )
    why_gradient = replies.why.get("gradient", "")
    if gradient is not None and not math.isfinite(gradient):
        why_gradient = BROKEN_GRADIENT
    return {
        "task": task,
        "idx": number,
        "id": probe.id,
        "subject": probe.subject,
        "prompt": probe.question,
        "reference": probe.answer,
        "generation": text,
        "n_gt": gt.tokens if gt else None,
        "avg_gt_loss": loss(gt),
        "n_para": para.tokens if para else None,
        "avg_para_loss": loss(para),
        "n_pert": [score.tokens if score else None for score in wrong],
        "avg_pert_loss": [loss(score) for score in wrong],
        "rouge1_recall": None if text is None else recall.rouge1_recall,
        "rougeL_recall": None if text is None else recall.rouge_l_recall,
        "accurate": None if text is None else accuracy.is_accurate(text, probe.answer, probe.value),
        "plausibility": None,
        **_memorised(gt),
        **_attacks(gt, probe.answer, gradient),
        **({"why": why} if why else {}),
        **({"why_answer": replies.why.get("answer", "no answer was written")} if text is None else {}),
        **({"why_gradient": why_gradient} if why_gradient else {}),
    }


def _memorised(score: Score | None) -> Record:
    """Extraction strength and exact memorisation, from the score that has the likelihood already; without the end token."""
    score = usable(score)
    if score is None:
        return {"es": None, "em": None}
    hits = score.hits[:-1]
    return {"es": extraction_strength(hits), "em": exact_memorisation(hits)}


def _attacks(score: Score | None, answer: str, gradient: float | None) -> Record:
    """Membership scores. OpenUnlearning counts the end token in a mean loss and leaves it out where single tokens are picked."""
    whole = attack_scores(score, answer, drop_end=False, gradient=gradient)
    picked = attack_scores(score, answer)
    return {f"mia_{name}": (picked if name.startswith("min_k") else whole)[name] for name in whole}


def judge_answers(rows: list[Record], judge: LanguageModel | None, judged: Sequence[str]) -> list[Record]:
    """The rows of the `judged` tasks with the plausibility of what was written, or why there is none, where there is a judge."""
    if judge is None:
        return rows
    wanted = [i for i, row in enumerate(rows) if row["task"] in judged and row["generation"] is not None]
    written = [i for i in wanted if rows[i]["generation"].strip()]
    try:
        scores = judge.score([Example(Prompt.ask(rows[i]["prompt"]), rows[i]["generation"]) for i in written])
        why = f"the gold: {BROKEN}" if broken(*scores) else ""
    except CapabilityError:
        scores, why = [], "the gold gives no likelihoods"
    if why:
        return [{**row, "why_plausibility": why} if row["task"] in judged else row for row in rows]
    found = dict.fromkeys(wanted, 0.0)
    found |= {i: fluency.plausibility(score.token_logprobs) for i, score in zip(written, scores, strict=True)}
    return [{**row, "plausibility": found.get(i)} for i, row in enumerate(rows)]


# --- halves and levels ------------------------------------------------------------------------------------------------
def half_of(subjects: Sequence[str], half: Half) -> set[str]:
    """The subjects of a half: the first half of them, in order, is for choosing settings, the second for reporting.

    A single subject cannot be parted and is in both.
    """
    order = list(dict.fromkeys(subjects))
    if len(order) < 2:
        return set(order)
    cut = len(order) // 2
    return set({"select": order[:cut], "report": order[cut:], "all": order}[half])


def keep_half(records: Sequence[Record], task: str, half: Half) -> list[Record]:
    """Records without those of a task whose subjects are in the other half."""
    rows = sorted((record for record in records if record["task"] == task), key=lambda record: record["idx"])
    kept = half_of([record["subject"] for record in rows], half)
    return [record for record in records if record["task"] != task or record["subject"] in kept]


class Level(NamedTuple):
    gap: float
    """Mean of log p(right) - log p(wrong) per token, nats: above 0, right answers are still likelier than wrong ones."""
    standard_error: float

    @property
    def reached(self) -> bool:
        """Right and wrong answers are equally likely, as far as so many rows can tell."""
        return abs(self.gap) <= 2 * self.standard_error


def level_of(table: Table) -> Level:
    """Where the forget role stands between known and unknown, without looking at a retrained model. Raises ModelError where its
    answers have no likelihoods.
    """
    if why := table.why("why", table.roles.forget):
        raise ModelError(f"the forget rows cannot be placed between known and unknown: {why}.")
    gaps = -np.log(table.ratios(table.roles.forget))
    return Level(float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(len(gaps))))


# --- records as arrays ------------------------------------------------------------------------------------------------
class Table:
    """The records of one model by task, in the order of their places there, as arrays, in one dialect. Raises DataError for a number
    that is not finite, which only a log can have.
    """

    def __init__(self, records: Sequence[Record], roles: Roles, dialect: Dialect):
        self.roles = roles
        self.dialect = dialect
        self.tasks: dict[str, list[Record]] = {}
        for record in records:
            _refuse_no_numbers(record)
            self.tasks.setdefault(record["task"], []).append(record)
        for task, rows in self.tasks.items():
            cut = dialect.rows if task in (roles.forget, roles.retain) else None
            self.tasks[task] = sorted(rows, key=lambda row: row["idx"])[:cut]

    def losses(self, task: str, field: str) -> np.ndarray:
        """[n] or [n, wrong] mean losses of a field, nats per token; an answer without any probability counts as FLOOR."""
        values = np.array([record[field] for record in self.tasks[task]], dtype=float)
        return np.where(np.isnan(values), FLOOR, values)

    def nll(self, task: str) -> np.ndarray:
        return self.losses(task, "avg_gt_loss")

    def ratios(self, task: str) -> np.ndarray:
        """[n] truth ratios, wrong over right."""
        right, wrong = self.losses(task, "avg_para_loss"), self.losses(task, "avg_pert_loss")
        return truth_ratio.truth_ratio(right, wrong, self.dialect.mean, self.dialect.epsilon)

    def probabilities(self, task: str) -> np.ndarray:
        """[n] probabilities, against the wrong options for the authors and facts roles, as TOFU has it."""
        if task in (self.roles.authors, self.roles.facts):
            return probability.probability_with_options(
                self.nll(task), self.losses(task, "avg_pert_loss"), self.dialect.epsilon
            )
        return probability.probability(self.nll(task))

    def truths(self, task: str) -> np.ndarray:
        """[n] values whose mean is TOFU's truth ratio of the task: min(R, 1/R) for the forget role, max(0, 1 - R) elsewhere."""
        ratios = self.ratios(task)
        return (
            np.minimum(ratios, 1 / (ratios + self.dialect.epsilon))
            if task == self.roles.forget
            else np.maximum(0, 1 - ratios)
        )

    def rouge(self, task: str) -> np.ndarray:
        return np.array([record["rougeL_recall"] for record in self.tasks[task]], dtype=float)

    def known_shares(self, task: str) -> np.ndarray:
        """[n] right / (right + wrong): the truth ratio as a share of knowledge."""
        right, wrong = self.losses(task, "avg_para_loss"), self.losses(task, "avg_pert_loss")
        return truth_ratio.known_shares(right, wrong, self.dialect.epsilon)

    def column(self, task: str, field: str, absent: float) -> np.ndarray:
        """[n] numbers of a field; `absent` where a row has none."""
        values = np.array([record.get(field) for record in self.tasks[task]], dtype=float)
        return np.where(np.isnan(values), absent, values)

    def why_no(self, task: str, field: str) -> str:
        """The reason why figures of a field are not applicable, or "": too many rows are without it."""
        rows = self.tasks[task]
        if field not in rows[0]:
            return f"the records have no field '{field}': they come from a log that lacks it"
        missing = sum(row[field] is None for row in rows)
        return (
            f"{missing} of {len(rows)} rows of '{task}' have no {field}"
            if missing > FLOOR_SHARE * len(rows)
            else ""
        )

    def clusters(self, task: str) -> list[list[int]]:
        return intervals.group_rows([record.get("subject", "") for record in self.tasks[task]])

    def why(self, field: str, task: str) -> str:
        """The first reason that a row of a task holds in a field, or ""."""
        return next((row[field] for row in self.tasks[task] if field in row), "")

    def why_no_likelihood(self, task: str) -> str:
        """The reason why likelihood figures of a task are not applicable, or ""."""
        rows = self.tasks[task]
        if why := self.why("why", task):
            return why
        floored = sum(
            record["avg_gt_loss"] is None
            or record["avg_para_loss"] is None
            or None in record["avg_pert_loss"]
            for record in rows
        )
        if floored <= FLOOR_SHARE * len(rows):
            return ""
        return f"the guard leaves the given answers of {floored} of {len(rows)} of these prompts no probability, or writes what has none"


def _refuse_no_numbers(record: Record) -> None:
    for field, value in record.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise DataError(
                    f"row {record['idx']} of task '{record['task']}': field '{field}' has {number}, which is no number, so the row says nothing."
                    "\nThe model that the log is of is broken: measure another one."
                )


def why_not_comparable(table: Table, gold: Table | None, *tasks: str) -> str:
    """Why a number cannot be compared row by row, or ""."""
    if gold is None:
        return NO_GOLD
    for task in tasks:
        ours, theirs = (
            [(row["idx"], row.get("reference")) for row in side.tasks.get(task, [])] for side in (table, gold)
        )
        if ours != theirs:
            return f"the gold's records are of other rows ({len(theirs)} of them, here {len(ours)}): both must come from one split"
        if why := gold.why_no_likelihood(task):
            return f"the gold: {why}"
    return ""
