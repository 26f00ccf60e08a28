"""Membership figures of question-answer records: forget rows against rows that were never trained on, by every attack."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from expunge.benchmarks._figures import resampled
from expunge.benchmarks._qa import Table, why_not_comparable
from expunge.metrics import membership, roc
from expunge.metrics.priv_leak import priv_leak
from expunge.types import Figure

ATTACKS = ("loss", "zlib", "min_k_40", "min_k++_40")
"""Those that the score of an answer gives without anything else, and that privacy is taken over."""
MUSE_ATTACK = "min_k_40"
FPRS = (0.01, 0.05)
HOLDOUT = "holdout"
RESAMPLES = 200


def membership_figures(
    table: Table, gold: Table | None, no_holdout: str, gradients: bool = False
) -> dict[str, Figure]:
    """Forget rows against never-trained rows by every attack: AUC, detection at few false alarms, and PrivLeak."""
    attacks = [*ATTACKS, *(["gradient_norm"] if gradients else [])]
    if HOLDOUT not in table.tasks:
        n = len(table.tasks[table.roles.forget])
        names = ("auc", *attacks, "reference", "priv_leak")
        return {f"membership/{name}": Figure(None, n, why=no_holdout) for name in names}
    found: dict[str, Figure] = {}
    for attack in [*attacks, "reference"]:
        why = why_no_attack(table, attack) or (
            why_not_comparable(table, gold, *sides(table)) if attack == "reference" else ""
        )
        found |= _attack_figures(table, gold, attack, why)
    return {
        "membership/auc": found["membership/loss"],
        **found,
        "membership/priv_leak": priv_leak_figure(table, gold),
    }


def sides(table: Table) -> tuple[str, str]:
    """Members and never-trained rows."""
    return (table.roles.forget, HOLDOUT)


def attacked(table: Table, task: str, attack: str) -> np.ndarray:
    """[n] membership scores; a row that is left no probability has the lowest of all."""
    return table.column(task, f"mia_{attack}", -math.inf)


def why_no_attack(table: Table, attack: str) -> str:
    """The reason why an attack does not apply, or ""."""
    field = "mia_loss" if attack == "reference" else f"mia_{attack}"
    for task in sides(table):
        why = table.why("why_gradient", task) if attack == "gradient_norm" else table.why_no_likelihood(task)
        if why := why or table.why_no(task, field):
            return why
    return ""


def _attack_figures(table: Table, gold: Table | None, attack: str, why: str) -> dict[str, Figure]:
    task, others = sides(table)
    n, negatives = len(table.tasks[task]) + len(table.tasks[others]), len(table.tasks[others])
    parts = []
    if not why:
        parts = [(_scores(table, gold, name, attack), table.clusters(name)) for name in (task, others)]
    numbers: dict[str, tuple[str, Callable[..., float]]] = {attack: (why, membership.auc)}
    for fpr in FPRS:
        numbers[f"{attack}_tpr_at_fpr_{100 * fpr:g}"] = (
            why or roc.why_unresolved(negatives, fpr),
            partial(_detected, fpr=fpr),
        )
    return {
        f"membership/{name}": Figure(None, n, why=absent) if absent else resampled(parts, number, RESAMPLES)
        for name, (absent, number) in numbers.items()
    }


def _scores(table: Table, gold: Table | None, task: str, attack: str) -> np.ndarray:
    if attack == "reference":
        assert gold is not None
        return gold.nll(task) - table.nll(task)
    return attacked(table, task, attack)


def _detected(members: np.ndarray, others: np.ndarray, fpr: float) -> float:
    """A resample of whole groups may have a row or two less than it takes."""
    return roc.tpr_at_fpr(members, others, max(fpr, roc.smallest_fpr(len(others))))


def priv_leak_figure(table: Table, gold: Table | None) -> Figure:
    """By Min-K % with k = 40, against the gold's own AUC on the same rows."""
    n = sum(len(table.tasks[task]) for task in sides(table))
    if why := why_no_attack(table, MUSE_ATTACK) or why_no_gold_attack(table, gold, MUSE_ATTACK):
        return Figure(None, n, why=why)
    assert gold is not None
    found = resampled(scores_beside(table, gold, (MUSE_ATTACK,)), _leaked, RESAMPLES)
    if math.isnan(found.number):
        return Figure(
            None,
            n,
            why="the gold tells every forget row from every never-trained one (AUC 1), so there is nothing to divide by",
        )
    if found.low is None or math.isnan(found.low):
        return Figure(found.value, n, note="no interval: in some resamples the gold's AUC is 1")
    return found


def why_no_gold_attack(table: Table, gold: Table | None, attack: str) -> str:
    if why := why_not_comparable(table, gold, *sides(table)):
        return why
    assert gold is not None
    why = why_no_attack(gold, attack)
    return f"the gold: {why}" if why else ""


def scores_beside(
    table: Table, gold: Table, attacks: tuple[str, ...]
) -> list[tuple[np.ndarray, list[list[int]]]]:
    """Members and never-trained rows, each [n, attacks, 2] scores: here and the gold's."""
    return [
        (
            np.stack([np.stack([attacked(side, task, a) for a in attacks], 1) for side in (table, gold)], -1),
            table.clusters(task),
        )
        for task in sides(table)
    ]


def _leaked(members: np.ndarray, others: np.ndarray) -> float:
    ours, golds = (membership.auc(members[:, 0, side], others[:, 0, side]) for side in (0, 1))
    return priv_leak(ours, golds) if golds < 1 else math.nan
