"""Question-answer benchmarks in TOFU's layout: one record a row with everything measured, then figures from the records.

Each distinct (question, answer) is scored once and each question answered once, however many figures read them. The records
have the fields of TOFU's published logs, so figures can be taken from a log without any model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

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
from expunge.types import Example, Figure, GenerationParams, LanguageModel, Probe, Prompt, Score

Record = dict[str, Any]
Half = Literal["select", "report", "all"]
MEASURE = 1
"""Raised whenever the same model gives other records; part of the key under which they are cached."""
FLOOR = -math.log(1e-12)
FLOOR_SHARE = 0.01
"""An answer without any probability counts as FLOOR nats a token; above this share of them, likelihood figures are not
applicable."""


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
    progress: Callable[[str], None] = lambda what: None,
) -> list[Record]:
    """One record a row. `judge` scores the answers of the `judged` tasks for fluency."""
    rows = [(task, number, probe) for task, probes in tasks.items() for number, probe in enumerate(probes)]
    examples: dict[tuple[str, str], Example] = {}
    for task, number, probe in rows:
        for answer in (probe.answer, probe.right_answer, *probe.perturbed_answer):
            examples.setdefault(
                (probe.question, answer), Example(Prompt.ask(probe.question), answer, f"{task} {number}")
            )
    progress("scoring")
    scores = dict(zip(examples, model.score(list(examples.values())), strict=True))
    progress("generating")
    questions = list(dict.fromkeys(probe.question for _, _, probe in rows))
    answered = model.generate(
        [Prompt.ask(question) for question in questions], GenerationParams(max_new_tokens=max_new_tokens)
    )
    said = {question: answers[0].text for question, answers in zip(questions, answered, strict=True)}
    texts = [said[probe.question] for _, _, probe in rows]
    recalls = rouge.rouge_recall(texts, [probe.answer for _, _, probe in rows])
    fluent = _judge(
        judge,
        [
            (probe.question, text) if task in judged else None
            for (task, _, probe), text in zip(rows, texts, strict=True)
        ],
    )
    return [
        _record(task, number, probe, scores, text, recall, logprob)
        for (task, number, probe), text, recall, logprob in zip(rows, texts, recalls, fluent, strict=True)
    ]


def _judge(judge: LanguageModel | None, answers: Sequence[tuple[str, str] | None]) -> list[float | None]:
    """Plausibility of each written answer under the judge; None where there is nothing to judge or nobody to do it."""
    if judge is None:
        return [None] * len(answers)
    found = [0.0 if answer else None for answer in answers]
    wanted = [
        (i, Example(Prompt.ask(answer[0]), answer[1]))
        for i, answer in enumerate(answers)
        if answer and answer[1].strip()
    ]
    for (i, _), score in zip(wanted, judge.score([example for _, example in wanted]), strict=True):
        found[i] = fluency.plausibility(score.token_logprobs)
    return found


def _record(
    task: str,
    number: int,
    probe: Probe,
    scores: Mapping[tuple[str, str], Score],
    text: str,
    recall: rouge.Rouge,
    judged: float | None,
) -> Record:
    gt, para = scores[probe.question, probe.answer], scores[probe.question, probe.right_answer]
    wrong = [scores[probe.question, answer] for answer in probe.perturbed_answer]
    return {
        "task": task,
        "idx": number,
        "id": probe.id,
        "subject": probe.subject,
        "prompt": probe.question,
        "reference": probe.answer,
        "generation": text,
        "n_gt": gt.tokens,
        "avg_gt_loss": _loss(gt),
        "n_para": para.tokens,
        "avg_para_loss": _loss(para),
        "n_pert": [score.tokens for score in wrong],
        "avg_pert_loss": [_loss(score) for score in wrong],
        "rouge1_recall": recall.rouge1_recall,
        "rougeL_recall": recall.rouge_l_recall,
        "accurate": accuracy.is_accurate(text, probe.answer, probe.value),
        "plausibility": judged,
    }


def _loss(score: Score) -> float | None:
    return None if score.floored else -score.mean_logprob


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
        found[f"{task}/accuracy"] = _share_figure(accurate, clusters)
    return found


def _share_figure(hits: np.ndarray, clusters: list[list[int]]) -> Figure:
    """A share with the wider of two intervals: Wilson's, which knows that none of n is not never, and that of whole clusters."""
    wilson = intervals.wilson(int(hits.sum()), len(hits))
    spread = intervals.percentiles(intervals.resampled_means(hits, clusters))
    return Figure(float(hits.mean()), len(hits), min(wilson.low, spread.low), max(wilson.high, spread.high))


def _mean_figure(values: np.ndarray | None, clusters: list[list[int]], n: int, why: str) -> Figure:
    if values is None:
        return Figure(None, n, why=why)
    return Figure(
        float(values.mean()), n, *intervals.percentiles(intervals.resampled_means(values, clusters))
    )


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
    a, b = -table.nll(task), -table.nll(others)
    rng = np.random.default_rng(0)
    groups = [[np.array(rows) for rows in table.clusters(name)] for name in (task, others)]
    draws = [
        [np.concatenate([part[i] for i in rng.integers(len(part), size=len(part))]) for part in groups]
        for _ in range(200)
    ]
    return Figure(
        membership.auc(a, b),
        n,
        *intervals.percentiles(np.array([membership.auc(a[x], b[y]) for x, y in draws])),
    )
