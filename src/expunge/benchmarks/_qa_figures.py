"""Figures of question-answer records: TOFU's own, what is memorised, membership, and one overall score.

Everything comes from the records: what they do not have (a published log has no token-wise numbers) is absent with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from expunge.benchmarks._benchmark import NO_GOLD, NO_TARGET
from expunge.benchmarks._figures import draws, mean_of, resampled, share_of
from expunge.benchmarks._qa import Table, why_not_comparable
from expunge.benchmarks._qa_membership import (
    ATTACKS,
    HOLDOUT,
    RESAMPLES,
    membership_figures,
    scores_beside,
    why_no_attack,
    why_no_gold_attack,
)
from expunge.metrics import fluency, intervals, membership, overall, probability
from expunge.metrics.effect_size import cliffs_delta
from expunge.metrics.forget_quality import forget_quality
from expunge.types import Figure

LEAST = 1e-12
"""Stands in for a part that is 0 in a resample, where 1/x is needed."""
NO_JUDGE = "no judge model scored the answers"


def all_figures(
    table: Table,
    gold: Table | None = None,
    target: Table | None = None,
    *,
    no_holdout: str = "there are no rows that were never trained on",
    gradients: bool = False,
) -> dict[str, Figure]:
    """Of one model. `no_holdout`: why there are no membership figures where the records have no such rows."""
    return {
        **tofu_figures(table, gold),
        **fluency_figures(table, table.roles.forget),
        **memorisation_figures(table),
        **membership_figures(table, gold, no_holdout, gradients),
        **overall_figures(table, gold, target, no_holdout),
    }


# --- TOFU's -----------------------------------------------------------------------------------------------------------
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
    why, unwritten = table.why_no_likelihood(task), table.why("why_answer", task)
    columns: dict[str, np.ndarray | None] = {
        "probability": None if why else table.probabilities(task),
        "truth_ratio": None if why or not table.tasks[task][0]["avg_pert_loss"] else table.truths(task),
    }
    found = {
        f"{task}/{name}": _mean_figure(values, clusters, n, why or "the rows have no wrong answers")
        for name, values in columns.items()
    }
    rouge = None if unwritten else table.rouge(task)
    found[f"{task}/rouge_l_recall"] = _mean_figure(rouge, clusters, n, unwritten)
    if unwritten:
        found[f"{task}/accuracy"] = Figure(None, n, why=unwritten)
    elif "accurate" in table.tasks[task][0]:
        accurate = np.array([record["accurate"] for record in table.tasks[task]], dtype=float)
        found[f"{task}/accuracy"] = share_of(accurate, clusters)
    return found


def _mean_figure(values: np.ndarray | None, clusters: list[list[int]], n: int, why: str) -> Figure:
    return Figure(None, n, why=why) if values is None else mean_of(values, clusters)


def utility_figure(table: Table) -> Figure:
    """Harmonic mean of the nine, with the interval from resampling the subjects of each task."""
    return _figure(model_utility(table), sum(len(table.tasks.get(t, ())) for t in table.roles.utility))


def quality_figures(table: Table, gold: Table | None) -> dict[str, Figure]:
    """The KS test of the forget role's truth ratios against the gold's, on the same rows, and the size of the effect."""
    names = [f"forget_quality/{name}" for name in ("ks_p", "log10_ks_p", "ks_distance", "cliffs_delta")]
    task = table.roles.forget
    n = len(table.tasks[task])
    if why := table.why_no_likelihood(task) or why_not_comparable(table, gold, task):
        return {name: Figure(None, n, why=why) for name in names}
    assert gold is not None
    a, b, clusters = table.ratios(task), gold.ratios(task), table.clusters(task)
    found = forget_quality(a, b)
    spread = intervals.percentiles(intervals.resampled_distances(a, b, clusters))
    finite = math.isfinite(found.log10_p)
    power = f"at n = {n} distances below {found.detectable:.2f} are not told from 0"
    delta = resampled([(np.stack([a, b], 1), clusters)], lambda rows: cliffs_delta(rows[:, 0], rows[:, 1]))
    side = "known better than" if delta.number < 0 else "known less than" if delta.number > 0 else "known as"
    figures = (
        Figure(found.p, n, note=power),
        Figure(found.log10_p if finite else None, n, why="" if finite else "p is 0 in floating point"),
        Figure(found.distance, n, *spread, note=power),
        Figure(delta.value, n, delta.low, delta.high, note=f"{side} by the gold"),
    )
    return dict(zip(names, figures, strict=True))


def fluency_figures(table: Table, task: str) -> dict[str, Figure]:
    """Plausibility under the judge, and distinct bigrams, of the written answers."""
    rows, clusters = table.tasks[task], table.clusters(task)
    why, unwritten = _why_not_plausible(table, task), table.why("why_answer", task)
    plausible = None if why else _plausible(table, task)
    distinct = (
        None if unwritten else np.array([fluency.distinct_bigrams(record["generation"]) for record in rows])
    )
    return {
        f"{task}/fluency": _mean_figure(plausible, clusters, len(rows), why),
        f"{task}/distinct_bigrams": _mean_figure(distinct, clusters, len(rows), unwritten),
    }


def _plausible(table: Table, task: str) -> np.ndarray:
    return np.array([record["plausibility"] for record in table.tasks[task]], dtype=float)


def _why_not_plausible(table: Table, task: str) -> str:
    if why := table.why("why_answer", task) or table.why("why_plausibility", task):
        return why
    return NO_JUDGE if any(record.get("plausibility") is None for record in table.tasks[task]) else ""


# --- what is memorised ------------------------------------------------------------------------------------------------
def memorisation_figures(table: Table) -> dict[str, Figure]:
    """Extraction strength, exact memorisation and the probability of the answer in other words, of the forget role."""
    task = table.roles.forget
    clusters, n = table.clusters(task), len(table.tasks[task])
    columns = memorised(table)
    if isinstance(columns, str):
        found = {name: Figure(None, n, why=columns) for name in ("extraction_strength", "exact_memorisation")}
        why = table.why_no_likelihood(task)
        found["paraphrase_probability"] = _mean_figure(None if why else _paraphrase(table), clusters, n, why)
    else:
        found = {name: mean_of(values, clusters) for name, values in columns.items() if name != "truth_ratio"}
    return {f"{task}/{name}": figure for name, figure in found.items()}


def memorised(table: Table) -> dict[str, np.ndarray] | str:
    """[n] of each of the four readings of the forget rows, or why there are none. A row that a guard leaves no probability has 0."""
    task = table.roles.forget
    if why := table.why_no_likelihood(task) or table.why_no(task, "es") or table.why_no(task, "em"):
        return why
    return {
        "extraction_strength": table.column(task, "es", 0.0),
        "exact_memorisation": table.column(task, "em", 0.0),
        "paraphrase_probability": _paraphrase(table),
        "truth_ratio": table.known_shares(task),
    }


def _paraphrase(table: Table) -> np.ndarray:
    return probability.probability(table.losses(table.roles.forget, "avg_para_loss"))


# --- one score --------------------------------------------------------------------------------------------------------
class Part(NamedTuple):
    """A number with its resamples, and the lowest of what it is made of."""

    value: float
    draws: np.ndarray  # [resamples]
    lowest: str = ""
    """Path of names down to the part that is lowest."""
    least: float = math.nan
    """The value of that part."""


def overall_figures(
    table: Table, gold: Table | None, target: Table | None, no_holdout: str
) -> dict[str, Figure]:
    """Memorisation, privacy, utility and their harmonic mean, and the utility that is robust to one part. Definitions: `metrics.overall`."""
    n = len(table.tasks[table.roles.forget])
    parts = {
        "memorisation": memorisation(table),
        "privacy": privacy(table, gold, no_holdout),
        "utility": utility(table, gold),
    }
    found = {f"overall/{name}": _figure(part, n) for name, part in parts.items()}
    found["overall/score"] = _figure(_composed(parts), n)
    return found | robust_figures(table, target, gold)


def memorisation(table: Table) -> Part | str:
    columns = memorised(table)
    if isinstance(columns, str):
        return columns
    clusters = table.clusters(table.roles.forget)
    return _composed(
        {name: _mean(values, clusters) for name, values in overall.memorisation_parts(**columns).items()}
    )


def privacy(table: Table, gold: Table | None, no_holdout: str) -> Part | str:
    if HOLDOUT not in table.tasks:
        return no_holdout
    for attack in ATTACKS:
        if why := why_no_attack(table, attack) or why_no_gold_attack(table, gold, attack):
            return why
    assert gold is not None
    sides_ = scores_beside(table, gold, ATTACKS)
    whole = _closeness(*(scores for scores, _ in sides_))
    return Part(
        whole.value,
        draws(sides_, lambda *both: _closeness(*both).value, RESAMPLES),
        whole.worst,
        whole.least,
    )


def _closeness(members: np.ndarray, others: np.ndarray) -> overall.Whole:
    ours, golds = (
        {a: membership.auc(members[:, i, side], others[:, i, side]) for i, a in enumerate(ATTACKS)}
        for side in (0, 1)
    )
    return overall.harmonic(overall.privacy_parts(ours, golds))


def utility(table: Table, gold: Table | None) -> Part | str:
    task = table.roles.forget
    if why := _why_not_plausible(table, task):
        return NO_GOLD if why == NO_JUDGE and gold is None else why
    fluent = _mean(_plausible(table, task), table.clusters(task))
    return _composed({"model_utility": model_utility(table), "fluency": fluent})


def model_utility(table: Table) -> Part | str:
    nine = utility_parts(table)
    return nine if isinstance(nine, str) else _composed(nine)


def utility_parts(table: Table) -> dict[str, Part] | str:
    """The nine parts of model utility by name, or why there are none."""
    nine: dict[str, Part] = {}
    for seed, task in enumerate(table.roles.utility):
        if task not in table.tasks:
            return f"the records have no task '{task}'"
        if why := table.why_no_likelihood(task) or table.why("why_answer", task):
            return why
        for name, values in (
            ("probability", table.probabilities(task)),
            ("rouge_l_recall", table.rouge(task)),
            ("truth_ratio", table.truths(task)),
        ):
            nine[f"{task}/{name}"] = _mean(values, table.clusters(task), seed)
    return nine


def robust_figures(table: Table, target: Table | None, gold: Table | None) -> dict[str, Figure]:
    """What is left of the nine parts: on average, and of the part of which least is left."""
    names = ("overall/robust_utility", "overall/worst_utility")
    n = sum(len(table.tasks.get(task, ())) for task in table.roles.utility)
    found = _kept(table, target or gold, "target" if target else "gold")
    if isinstance(found, str):
        return {name: Figure(None, n, why=found) for name in names}
    return {name: _bounded(part, n, note) for name, (part, note) in zip(names, found, strict=True)}


def _kept(table: Table, reference: Table | None, who: str) -> list[tuple[Part, str]] | str:
    """Average and worst kept share, each with what has to be said, or why there are none."""
    if reference is None:
        return NO_TARGET
    ours, theirs = utility_parts(table), utility_parts(reference)
    if isinstance(ours, str):
        return ours
    if isinstance(theirs, str):
        return f"the {who}: {theirs}"
    if why_not_comparable(table, reference, *table.roles.utility):
        return f"the {who}'s records are of other rows"
    try:
        kept = overall.robust_utility(
            *({name: part.value for name, part in side.items()} for side in (ours, theirs))
        )
    except ValueError as error:
        return str(error)
    shares = {
        name: np.minimum(1, part.draws / np.maximum(theirs[name].draws, LEAST))
        for name, part in ours.items()
        if name not in kept.left_out
    }
    note = f"beside the {who}: least is left of {kept.worst} ({kept.worst_share:.3g})"
    if kept.left_out:
        note += f"; left out, for the {who} has next to nothing of it: {', '.join(kept.left_out)}"
    average = np.mean(list(shares.values()), axis=0)
    return [(Part(kept.mean, average), note), (Part(kept.worst_share, shares[kept.worst]), note)]


def _mean(values: np.ndarray, clusters: list[list[int]], seed: int = 0) -> Part:
    value = float(values.mean())
    return Part(value, intervals.resampled_means(values, clusters, seed=seed), "", value)


def _composed(parts: Mapping[str, Part | str]) -> Part | str:
    """The harmonic mean; the first reason where a part is absent."""
    held: dict[str, Part] = {}
    for name, part in parts.items():
        if isinstance(part, str):
            return part
        held[name] = part
    whole = overall.harmonic({name: part.value for name, part in held.items()})
    worst = held[whole.worst]
    resamples = min(len(part.draws) for part in held.values())
    stacked = np.array([part.draws[:resamples] for part in held.values()])  # [parts, resamples]
    means = len(held) / (1 / np.maximum(stacked, LEAST)).sum(axis=0)
    return Part(
        whole.value,
        np.where((stacked > 0).all(axis=0), means, 0.0),
        f"{whole.worst} > {worst.lowest}" if worst.lowest else whole.worst,
        worst.least,
    )


def _figure(part: Part | str, n: int) -> Figure:
    if isinstance(part, str):
        return Figure(None, n, why=part)
    said = (
        f"0 because of {part.lowest}" if part.value == 0 else f"lowest part: {part.lowest} ({part.least:.3g})"
    )
    return _bounded(part, n, said)


def _bounded(part: Part, n: int, note: str) -> Figure:
    """What is cut off at 1 lies above most of its resamples; the interval is widened to hold it."""
    low, high = intervals.percentiles(part.draws)
    return Figure(part.value, n, min(low, part.value), max(high, part.value), note=note)
