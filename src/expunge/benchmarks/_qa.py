"""Question-answer benchmarks in TOFU's layout: one record a row with everything measured, then figures from the records.

Each distinct (question, answer) is scored once and each question answered once, however many figures read them. The records
have the fields of TOFU's published logs, so figures can be taken from a log without any model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from expunge.benchmarks._asks import Asks, Replies, ask
from expunge.benchmarks._figures import FLOOR, FLOOR_SHARE, loss, mean_of, resampled, share_of
from expunge.metrics import (
    accuracy,
    fluency,
    intervals,
    membership,
    model_utility,
    probability,
    rouge,
    truth_ratio,
)
from expunge.metrics.forget_quality import forget_quality
from expunge.types import Example, Figure, GenerationParams, LanguageModel, Probe, Prompt

Record = dict[str, Any]
Half = Literal["select", "report", "all"]
MEASURE = 2
"""Raised whenever the same model gives other records; part of the key under which they are cached."""


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


def asks_of(tasks: Mapping[str, Sequence[Probe]], max_new_tokens: int) -> Asks:
    """The likelihood of every right and wrong answer, and an answer to every question."""
    probes = [probe for group in tasks.values() for probe in group]
    params = GenerationParams(max_new_tokens=max_new_tokens)
    return Asks(
        [_example(probe, answer) for probe in probes for answer in _answers(probe)],
        [(Prompt.ask(probe.question), params) for probe in probes],
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
    texts = [written[0].text if written else "" for written in answers]
    recalls = rouge.rouge_recall(texts, [probe.answer for _, _, probe in rows])
    return [
        _record(task, number, probe, replies, text, recall)
        for (task, number, probe), text, recall in zip(rows, texts, recalls, strict=True)
    ]


def _record(task: str, number: int, probe: Probe, replies: Replies, text: str, recall: rouge.Rouge) -> Record:
    gt, para, *wrong = (replies.score(_example(probe, answer)) for answer in _answers(probe))
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
        "rouge1_recall": recall.rouge1_recall,
        "rougeL_recall": recall.rouge_l_recall,
        "accurate": accuracy.is_accurate(text, probe.answer, probe.value),
        "plausibility": None,
        **({"why": replies.why["score"]} if gt is None else {}),
    }


def judge_answers(rows: list[Record], judge: LanguageModel | None, judged: Sequence[str]) -> list[Record]:
    """The rows of the `judged` tasks with the plausibility of what was written, where there is a judge."""
    if judge is None:
        return rows
    wanted = [i for i, row in enumerate(rows) if row["task"] in judged]
    written = [i for i in wanted if rows[i]["generation"].strip()]
    scores = judge.score([Example(Prompt.ask(rows[i]["prompt"]), rows[i]["generation"]) for i in written])
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
    kept = half_of([record["subject"] for record in records if record["task"] == task], half)
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
    """Where the forget role stands between known and unknown, without looking at a retrained model."""
    gaps = -np.log(table.ratios(table.roles.forget))
    return Level(float(gaps.mean()), float(gaps.std(ddof=1) / math.sqrt(len(gaps))))


# --- figures from records ---------------------------------------------------------------------------------------------
class Table:
    """The records of one model by task, as arrays, in one dialect."""

    def __init__(self, records: Sequence[Record], roles: Roles, dialect: Dialect):
        self.roles = roles
        self.dialect = dialect
        self.tasks: dict[str, list[Record]] = {}
        for record in records:
            self.tasks.setdefault(record["task"], []).append(record)
        for task in (roles.forget, roles.retain):
            if dialect.rows and task in self.tasks:
                self.tasks[task] = self.tasks[task][: dialect.rows]

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

    def clusters(self, task: str) -> list[list[int]]:
        return intervals.group_rows([record.get("subject", "") for record in self.tasks[task]])

    def why_no_likelihood(self, task: str) -> str:
        """The reason why likelihood figures of a task are not applicable, or ""."""
        rows = self.tasks[task]
        if "why" in rows[0]:
            return rows[0]["why"]
        floored = sum(
            record["avg_gt_loss"] is None
            or record["avg_para_loss"] is None
            or None in record["avg_pert_loss"]
            for record in rows
        )
        if floored <= FLOOR_SHARE * len(rows):
            return ""
        return f"the guard leaves the given answers of {floored} of {len(rows)} of these prompts no probability, or writes what has none"


def tofu_figures(table: Table, gold: Table | None) -> dict[str, Figure]:
    """Those of every task, model utility, and forget quality against the gold."""
    found: dict[str, Figure] = {}
    for task in table.tasks:
        found |= task_figures(table, task)
    found["model_utility"] = utility_figure(table)
    return found | quality_figures(table, gold)


def task_figures(table: Table, task: str) -> dict[str, Figure]:
    """Probability, truth ratio, ROUGE-L recall and accuracy of one task."""
    clusters, n = table.clusters(task), len(table.tasks[task])
    why = table.why_no_likelihood(task)
    columns: dict[str, np.ndarray | None] = {
        "probability": None if why else table.probabilities(task),
        "truth_ratio": None if why or not table.tasks[task][0]["avg_pert_loss"] else table.truths(task),
        "rouge_l_recall": table.rouge(task),
    }
    found = {
        f"{task}/{name}": _mean_figure(values, clusters, n, why or "the rows have no wrong answers")
        for name, values in columns.items()
    }
    if "accurate" in table.tasks[task][0]:
        accurate = np.array([record["accurate"] for record in table.tasks[task]], dtype=float)
        found[f"{task}/accuracy"] = share_of(accurate, clusters)
    return found


def _mean_figure(values: np.ndarray | None, clusters: list[list[int]], n: int, why: str) -> Figure:
    return Figure(None, n, why=why) if values is None else mean_of(values, clusters)


def utility_figure(table: Table) -> Figure:
    """Harmonic mean of the nine, with the interval from resampling the subjects of each task."""
    nine, resampled, n = [], [], 0
    for seed, task in enumerate(table.roles.utility):
        if task not in table.tasks:
            return Figure(None, why=f"the records have no task '{task}'")
        if why := table.why_no_likelihood(task):
            return Figure(None, why=why)
        n += len(table.tasks[task])
        for values in (table.probabilities(task), table.rouge(task), table.truths(task)):
            nine.append(float(values.mean()))
            resampled.append(intervals.resampled_means(values, table.clusters(task), seed=seed))
    draws = np.maximum(np.array(resampled), 1e-12)  # [9, resamples]
    return Figure(
        model_utility.harmonic_mean(nine), n, *intervals.percentiles(len(nine) / (1 / draws).sum(axis=0))
    )


def quality_figures(table: Table, gold: Table | None) -> dict[str, Figure]:
    """The KS test of the forget role's truth ratios against the gold's, on the same rows."""
    names = ("forget_quality/ks_p", "forget_quality/log10_ks_p", "forget_quality/ks_distance")
    task = table.roles.forget
    n = len(table.tasks[task])
    if why := table.why_no_likelihood(task) or _why_not_comparable(table, gold):
        return {name: Figure(None, n, why=why) for name in names}
    assert gold is not None
    a, b = table.ratios(task), gold.ratios(task)
    found = forget_quality(a, b)
    spread = intervals.percentiles(intervals.resampled_distances(a, b, table.clusters(task)))
    finite = math.isfinite(found.log10_p)
    log10 = Figure(found.log10_p if finite else None, n, why="" if finite else "p is 0 in floating point")
    return dict(zip(names, (Figure(found.p, n), log10, Figure(found.distance, n, *spread)), strict=True))


def _why_not_comparable(table: Table, gold: Table | None) -> str:
    if gold is None:
        return "no gold model was given: forget quality compares with a model retrained without the data"
    task = table.roles.forget
    ours, theirs = ([row["idx"] for row in side.tasks.get(task, [])] for side in (table, gold))
    if ours == theirs:
        return ""
    return f"the gold's records are of other rows ({len(theirs)} of them, here {len(ours)}): both must come from one split"


def fluency_figures(table: Table, task: str) -> dict[str, Figure]:
    """Plausibility under the judge, and distinct bigrams, of the written answers."""
    rows, clusters = table.tasks[task], table.clusters(task)
    distinct = np.array([fluency.distinct_bigrams(record["generation"]) for record in rows])
    judged = [record.get("plausibility") for record in rows]
    plausible = None if None in judged else np.array(judged, dtype=float)
    return {
        f"{task}/fluency": _mean_figure(plausible, clusters, len(rows), "no judge model scored the answers"),
        f"{task}/distinct_bigrams": _mean_figure(distinct, clusters, len(rows), ""),
    }


def membership_figure(table: Table, task: str, others: str) -> Figure:
    """AUC of forget rows against never-trained rows by mean log-likelihood of the answer."""
    n = len(table.tasks[task]) + len(table.tasks[others])
    if why := table.why_no_likelihood(task) or table.why_no_likelihood(others):
        return Figure(None, n, why=why)
    parts = [(-table.nll(name), table.clusters(name)) for name in (task, others)]
    return resampled(parts, membership.auc, 200)
