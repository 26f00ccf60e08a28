"""What an audit's rows say: success of each attack and of all together, beside chance, gold and original, with intervals.

Formulas are in `metrics.attack_success`; here rows become its cases, and figures get the wider of two intervals: Wilson's, and that of whole
subjects drawn with replacement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from expunge.attacks._attack import TIERS, AskingAttack
from expunge.benchmarks._figures import mean_of, share_of
from expunge.metrics.attack_success import answers_hit, normalised
from expunge.metrics.intervals import group_rows
from expunge.metrics.rouge import rouge_recall
from expunge.run.auditing import Attack, Material, Subject, Tried
from expunge.types import Figure

LIST = "it tells who is on the list, not what was removed: see its AUROC"
NO_CASES = "no trial could be made of these rows"


def figures_of(
    found: Mapping[str, Subject], attacks: Mapping[str, Attack], material: Material
) -> dict[str, Figure]:
    """By `<attack>/<who>`, `<attack>/excess/<who>`, `any/<who>`, `any/<tier>/<who>`, `guess/...` and `over_refusal/<who>`."""
    figures: dict[str, Figure] = {}
    for name, attack in attacks.items():
        for who in found:
            figures |= _of(name, who, found, {name: attack}, material)
            more = (
                attack.figures(material.cases, found[who].rows.get(name, ()))
                if isinstance(attack, AskingAttack)
                else {}
            )
            figures |= {f"{name}/{key}/{who}": figure for key, figure in more.items()}
    opened = {name: attack for name, attack in attacks.items() if attack.kind == "open"}
    for tier in TIERS:
        upto = {name: attack for name, attack in opened.items() if attack.tier <= tier}
        for who in found:
            here = any(found[who].rows.get(name) for name, attack in opened.items() if attack.tier == tier)
            retained = _retained(found[who], attacks, tier)
            if retained:
                figures[f"any/{tier}/{who}"] = Figure(None, why=retained)
            elif here:
                figures |= _of(f"any/{tier}", who, found, upto, material)
    for who in found:
        figures |= _of("any", who, found, opened, material)
    known = found["target"].neighbours if "target" in found else None
    for who, subject in found.items():
        figures[f"over_refusal/{who}"] = _over_refusal(subject.neighbours, known, material)
    return figures


def _retained(subject: Subject, attacks: Mapping[str, Attack], tier: str) -> str:
    """Why a tier is not applicable: all its attacks say the same."""
    whys = [subject.why.get(name, "") for name, attack in attacks.items() if attack.tier == tier]
    return whys[0] if whys and all(why.startswith("not applicable") for why in whys) else ""


def _of(
    name: str, who: str, found: Mapping[str, Subject], attacks: Mapping[str, Attack], material: Material
) -> dict[str, Figure]:
    """Success of some attacks together: a case is hit where one of them hits it."""
    if all(attack.kind == "list" for attack in attacks.values()):
        return {f"{name}/{who}": Figure(None, why=LIST)}
    mine = case_hits(found[who], attacks, material)
    if not mine:
        whys = [why for attack in attacks if (why := found[who].why.get(attack))]
        return {f"{name}/{who}": Figure(None, why=whys[0] if whys else NO_CASES)}
    made = {f"{name}/{who}": _share({case: hits.right for case, hits in mine.items()}, material)}
    guesses = {case: hits.wrong for case, hits in mine.items() if hits.wrong is not None}
    if guesses:
        made[f"{name}/guess/{who}"] = _mean(guesses, material)
    if "gold" in found and who != "gold":
        met = {attack: rules for attack, rules in attacks.items() if found[who].rows.get(attack)}
        theirs = case_hits(found["gold"], met, material)  # what this model was spared must not count here
        both = {case: mine[case].right - float(theirs[case].right) for case in mine if case in theirs}
        if both:
            made[f"{name}/excess/{who}"] = _mean(both, material)
    return made


class Hits(NamedTuple):
    """Of one case under some attacks together."""

    right: bool
    wrong: float | None
    """Mean over its wrong answers; None where there are none."""


def case_hits(subject: Subject, attacks: Mapping[str, Attack], material: Material) -> dict[int, Hits]:
    """By case, whether any of the attacks hits it; cases on which none was tried are not there."""
    by_case: dict[int, list[np.ndarray]] = {}
    for name, attack in attacks.items():
        trials: dict[int, list[Sequence[bool]]] = {}
        for row in subject.rows.get(name, ()):
            if row.hits:
                trials.setdefault(row.case, []).append(row.hits)
        for case, hits in trials.items():
            by_case.setdefault(case, []).append(answers_hit(hits, attack.agree))
    return {case: _together(by_case[case]) for case in sorted(by_case)}


def _together(found: Sequence[np.ndarray]) -> Hits:
    """One is enough. Where attacks have different numbers of wrong answers, as many count as all of them have."""
    width = min(map(len, found))
    hits = np.any([row[:width] for row in found], axis=0)
    return Hits(bool(hits[0]), float(hits[1:].mean()) if width > 1 else None)


def _share(by_case: Mapping[int, bool], material: Material) -> Figure:
    return share_of(np.array([*by_case.values()], dtype=float), _subjects(by_case, material))


def _mean(by_case: Mapping[int, float], material: Material) -> Figure:
    return mean_of(np.array([*by_case.values()], dtype=float), _subjects(by_case, material))


def _subjects(by_case: Mapping[int, Any], material: Material) -> list[list[int]]:
    return group_rows([material.cases[case].probe.subject for case in by_case])


def _over_refusal(neighbours: Sequence[bool], known: Sequence[bool] | None, material: Material) -> Figure:
    """Of the neighbours' questions that the target answers, the share that is no longer answered."""
    if known is None:
        return Figure(None, why="which neighbours were answered before is not known: give --target")
    kept = [i for i, was in enumerate(known) if was]
    if not kept:
        return Figure(None, why="there are no neighbours that the target answers")
    clusters = group_rows([material.neighbours[i].probe.subject for i in kept])
    return share_of(np.array([not neighbours[i] for i in kept], dtype=float), clusters)


# --- the table ------------------------------------------------------------------------------------------------------------
def table_of(
    found: Mapping[str, Subject],
    figures: Mapping[str, Figure],
    attacks: Mapping[str, Attack],
    material: Material,
    left_out: Mapping[str, Counter[str]],
) -> list[dict[str, Any]]:
    """One plain entry an attack: what it is, its success on every model, its constructions one by one, and what was left out. `figures`:
    those of `figures_of`.
    """
    table = []
    for name, attack in attacks.items():
        mine = found["run"].rows.get(name, [])
        asked = Counter(row.case for row in mine)
        rate = {who: figures[f"{name}/{who}"] for who in found}
        table.append(
            {
                "id": attack.id,
                "name": name,
                "tier": attack.tier,
                "kind": attack.kind,
                "version": attack.version,
                "settings": attack.model_dump(mode="json"),
                "n": rate["run"].n,
                "subjects": len(_subjects(asked, material)),
                "k": max(asked.values(), default=0),
                "asr": {who: asdict(figure) for who, figure in rate.items()},
                "guess": _plain(figures, f"{name}/guess", found),
                "excess": _plain(figures, f"{name}/excess", found),
                "normalised": _normalised(rate),
                "leak": _leak(mine, material) if attack.kind in ("open", "echo") else None,
                "tokens": sum(row.tokens for row in mine),
                "variants": _variants(name, found, material),
                "figures": _more(figures, name, found),
                "notes": {who: dict(subject.notes.get(name, {})) for who, subject in found.items()},
                "left_out": dict(left_out.get(name, {})),
                "why": found["run"].why.get(name, ""),
            }
        )
    return table


def _plain(figures: Mapping[str, Figure], name: str, found: Mapping[str, Subject]) -> dict[str, Any]:
    return {who: asdict(figures[f"{name}/{who}"]) for who in found if f"{name}/{who}" in figures}


def _more(figures: Mapping[str, Figure], name: str, found: Mapping[str, Subject]) -> dict[str, Any]:
    """The attack's own figures, by name and model."""
    own: dict[str, Any] = {}
    for full, figure in figures.items():
        start, _, who = full.rpartition("/")
        key = start.removeprefix(f"{name}/")
        if key != start and key not in ("guess", "excess") and who in found:
            own.setdefault(key, {})[who] = asdict(figure)
    return own


def _normalised(rate: Mapping[str, Figure]) -> float | None:
    run, gold, target = (rate[who].value if who in rate else None for who in ("run", "gold", "target"))
    return None if run is None or gold is None or target is None else normalised(run, gold, target)


def _leak(rows: Sequence[Tried], material: Material) -> float | None:
    """Mean over cases of the largest ROUGE-L recall of the answer in what was written."""
    said = list(dict.fromkeys((row.text, row.case) for row in rows if row.text))
    if not said:
        return None
    recalls = rouge_recall([text for text, _ in said], [material.cases[case].statement for _, case in said])
    most: dict[int, float] = {}
    for (_, case), recall in zip(said, recalls, strict=True):
        most[case] = max(most.get(case, 0.0), recall.rouge_l_recall)
    return float(np.mean(list(most.values())))


def _variants(name: str, found: Mapping[str, Subject], material: Material) -> dict[str, dict[str, float]]:
    """By construction, the share of the cases it was tried on that it hits, for every model."""
    made: dict[str, dict[str, float]] = {}
    for who, subject in found.items():
        by: dict[str, dict[int, bool]] = {}
        for row in subject.rows.get(name, ()):
            if row.hits:
                hits = by.setdefault(row.variant, {})
                hits[row.case] = hits.get(row.case, False) or row.hits[0]
        for variant, hits in by.items():
            made.setdefault(variant, {})[who] = sum(hits.values()) / len(hits)
    return made
