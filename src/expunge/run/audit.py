"""An audit: many attacks on one model, beside the model that knew and one that never did, with one verdict a tier."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from expunge import catalog
from expunge.artifacts import store
from expunge.artifacts.manifest import read_manifest
from expunge.attacks._attack import KINDS, TIERS, AskingAttack, Given, OpeningAttack, Reading
from expunge.errors import ConfigError
from expunge.run.asking import replies_of
from expunge.run.audit_figures import NO_CASES, figures_of, table_of
from expunge.run.auditing import (
    Attack,
    Fits,
    Material,
    Patient,
    Subject,
    Tried,
    answered,
    ask_all,
    fitting,
    open_all,
    planned,
    rows_of,
)
from expunge.run.choosing import attack_names, chosen, listed
from expunge.run.make import Progress, is_address, load, model_folder, model_hash, silent
from expunge.run.measuring import EVALUATIONS, base_of, keep, metric_versions, subject_of

EVALUATION = "audit.json"
SCHEMA = 4
RETAINED = "not applicable: knowledge retained. The weights behind the guard were never changed"
"""What stands in place of a number where a guard meets an attacker who has the weights. Never a pass."""


# --- the audit -----------------------------------------------------------------------------------------------------------
def audit(
    run: str | Path,
    material: Material,
    *,
    suite: str = "standard",
    only: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    gold: str | Path | None = None,
    floor: str | Path | None = None,
    target: str | Path | None = None,
    helper: Given | None = None,
    template: str = "auto",
    seed: int = 0,
    device: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Try to get the knowledge back from a run, a model or an endpoint. Returns the report as plain values; a run folder keeps it.

    `target`: the model before unlearning (a run folder knows its own); `gold`: one that never knew; `floor`: a second gold. All meet the
    same trials under the same template, and none that one of them cannot be put to. What a run folder was audited with before, by the
    same yardstick, stays in its report. Raises ConfigError, DataError or ModelError.
    """
    subjects = {"run": run, "target": target or base_of(run), "gold": gold, "floor": floor}
    for name in subjects.values():
        if name:
            model_hash(name)  # a name that is wrong is told before anything is tried
    begin = time.perf_counter()
    attacks = chosen(suite, only, settings)
    yard = yardstick(material, subjects, seed)
    if earlier := _earlier(
        run, yard, attacks
    ):  # read again from what was kept; where that is gone, asked again
        progress("with attacks that the report has from before", len(earlier), len(earlier))
        attacks |= earlier
    attacks = {name: attacks[name] for name in attack_names() if name in attacks}
    models = {who: name for who, name in subjects.items() if name}
    if template == "auto" and is_run(run):
        template = read_manifest(Path(run))["template"]
    asking = {name: attack for name, attack in attacks.items() if isinstance(attack, AskingAttack)}
    endpoint = any(_outside(name) for name in models.values())
    fits = _fits(models.values(), template)
    plans, left_out = planned(asking, material, seed, fits, endpoint, helper)
    reasons = {name: counts.most_common(1)[0][0] for name, counts in left_out.items() if counts}
    original = models.get("target")
    if original and (is_guard(original) or _outside(original)):
        original = None  # nothing that could be opened
    found = {
        who: _tried(name, attacks, plans, fits, reasons, material, original, template, device, seed, progress)
        for who, name in models.items()
    }
    figures = figures_of(found, attacks, material)
    seconds = time.perf_counter() - begin
    result = {
        "schema": SCHEMA,
        "audit": suite if not only else "only",
        **yard,
        "subject": subject_of(run),
        "tiers": TIERS,
        "kinds": KINDS,
        "attacks": table_of(found, figures, attacks, material, left_out),
        "not_tried": [row for row in listed() if row["name"] not in attacks],
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "seconds": round(seconds, 2),
        "rows": _flat(found["run"], attacks, material),
    }
    if _earlier(run, yard, attacks):  # another audit of this run has ended meanwhile: its attacks stay, too
        return audit(
            run, material, suite=suite, only=only, settings=settings, gold=gold, floor=floor, target=target, helper=helper,
            template=template, seed=seed, device=device, progress=progress,
        )  # fmt: skip
    keep(run, EVALUATION, result)
    return result


def attack(
    run: str | Path,
    rows: Any,
    only: Sequence[str] | str = (),
    *,
    suite: str = "standard",
    helper: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """`audit` on a benchmark, or a Dataset of one's own: ex.attack("runs/a", ex.Pocket.open(WORLD), gold=WORLD + "/gold")."""
    from expunge.run.material import material_of

    material = material_of(rows)
    more.setdefault("template", getattr(rows, "template", "auto"))
    if helper:
        from expunge.attacks._tongues import LANGUAGES
        from expunge.run.helping import helper_of

        more["helper"] = helper_of(
            helper,
            material.cases,
            LANGUAGES,
            device=more.get("device"),
            progress=more.get("progress", silent),
        )
        material = replace(material, settings={**material.settings, "helper": model_hash(helper)})
    return audit(run, material, suite=suite, only=[only] if isinstance(only, str) else only, **more)


def _tried(
    subject,
    attacks: dict[str, Attack],
    plans,
    fits: Fits,
    reasons: Mapping[str, str],
    material: Material,
    original,
    template,
    device,
    seed,
    progress,
) -> Subject:
    """`reasons`: by attack, why most of its trials were left out."""
    opened: list[Any] = []

    def open_once(name, **more: Any) -> Any:
        if not opened:
            opened.append(Patient(load(name, **more)))
        return opened[0]

    asking = {name: attack for name, attack in attacks.items() if isinstance(attack, AskingAttack)}
    opening = {name: attack for name, attack in attacks.items() if isinstance(attack, OpeningAttack)}
    ask = partial(
        replies_of, subject, template=template, device=device, open_model=open_once, progress=progress
    )
    rows: dict[str, list[Tried]] = {name: [] for name in attacks}
    for row in ask_all(ask, plans, asking, material.cases, fits):
        rows[row.attack].append(row)
    said = answered(ask, material.neighbours)
    why: dict[str, str] = {}
    readings: dict[str, Reading] = {}
    if is_guard(subject):
        why = {name: RETAINED for name, attack in attacks.items() if attack.tier in ("T3", "T4")}
    elif _outside(subject):
        why = dict.fromkeys(opening, "the weights are not at hand: this is an address")
    else:
        readings = open_all(
            subject,
            opening,
            material,
            original=original,
            template=template,
            device=device,
            seed=seed,
            progress=progress,
        )
    for name, reading in readings.items():
        rows[name] = rows_of(name, reading)
        if reading.why:
            why[name] = reading.why
    for name, tried in rows.items():
        if not tried and name not in readings:
            why.setdefault(name, reasons.get(name, NO_CASES))
    return Subject(rows, why, {name: reading.notes for name, reading in readings.items()}, said)


def _flat(subject: Subject, attacks: Mapping[str, Attack], material: Material) -> list[dict[str, Any]]:
    """One plain row a trial."""
    return [
        {
            "attack": name,
            "id": attacks[name].id,
            "tier": attacks[name].tier,
            "kind": attacks[name].kind,
            "case": material.cases[row.case].probe.id,
            "subject": material.cases[row.case].probe.subject,
            "variant": row.variant,
            "turn": row.turn,
            "hit": row.hits[0] if row.hits else None,
            "prompt": row.prompt,
            "generation": row.text,
            "reference": material.cases[row.case].value,
        }
        for name, rows in subject.rows.items()
        for row in rows
    ]


def _fits(names: Iterable[str | Path], template: str) -> Fits:
    """Whether prompts fit the context of every model; of an address nobody knows it."""
    from expunge.data.tokenize import Encoder
    from expunge.models.load import context_length, load_config, load_tokenizer

    checks: dict[Any, Fits] = {}
    for name in names:
        if _outside(name):
            continue
        folder = model_folder(name)
        while is_run(folder):  # a guard before a run
            folder = model_folder(folder)
        tokenizer = load_tokenizer(folder)
        encoder = Encoder(tokenizer, context_length(load_config(folder), tokenizer), template)
        alike = (frozenset(tokenizer.get_vocab().items()), tokenizer.chat_template, encoder.max_tokens)
        checks.setdefault(alike, fitting(encoder))
    return lambda trials: [all(fit) for fit in zip([True] * len(trials), *(check(trials) for check in checks.values()), strict=True)]  # fmt: skip


# --- what identifies and keeps it ------------------------------------------------------------------------------------------
def yardstick(material: Material, subjects: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What audits have to share for their figures to compare."""
    named = {
        who: {"name": str(name), "sha256": model_hash(name)} if name else None
        for who, name in subjects.items()
    }
    return {
        "benchmark": material.settings.get("benchmark", "files"),
        "settings": dict(material.settings),
        "metrics": metric_versions(),
        "seed": seed,
        "gold": named["gold"],
        "target": named["target"],
    }


def _earlier(run: str | Path, yard: Mapping[str, Any], attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """The attacks that a run folder's report already has, where it was made with the same yardstick. Those whose settings were since
    named otherwise are left behind.
    """
    held = _held(run)
    if held is None or any(held.get(key) != value for key, value in yard.items()):
        return {}
    found: dict[str, Attack] = {}
    for row in held["attacks"]:
        name = row["name"]
        if name not in attacks and name in catalog.entries("attack"):
            with suppress(ConfigError):
                found[name] = catalog.load("attack", name).parse(row["settings"], f"attack {name}")
    return found


def _held(run: str | Path) -> dict[str, Any] | None:
    """A run folder's report, where there is one of the artifact as it is."""
    path = Path(run) / EVALUATIONS / EVALUATION
    if not is_run(run) or not path.is_file():
        return None
    held = store.read_json(path)
    return held if held.get("schema") == SCHEMA and held["subject"]["sha256"] == model_hash(run) else None


def is_audited(
    run: str | Path,
    rows: Any,
    suite: str,
    only: Sequence[str] = (),
    *,
    gold: str | Path | None = None,
    target: str | Path | None = None,
    seed: int = 0,
) -> bool:
    """Whether a run folder's report already has all attacks of a suite, as they are now, on the artifact as it is, these rows, and beside
    these models.
    """
    from expunge.run.material import material_of

    held = _held(run)
    yard = yardstick(material_of(rows), {"gold": gold, "target": target or base_of(run)}, seed)
    if held is None or any(held.get(key) != value for key, value in yard.items()):
        return False
    there = {row["name"]: (row["version"], row["settings"]) for row in held["attacks"]}
    wanted = {
        name: (attack.version, attack.model_dump(mode="json")) for name, attack in chosen(suite, only).items()
    }
    return all(there.get(name) == facts for name, facts in wanted.items())


def is_run(name: str | Path) -> bool:
    return (Path(name) / "manifest.json").is_file()


def is_guard(name: str | Path) -> bool:
    return is_run(name) and read_manifest(Path(name))["kind"] == "guard"


def _outside(name: str | Path) -> bool:
    """Whether an address has a part in a model's answers."""
    return is_address(name) or is_address(base_of(name) or "")
