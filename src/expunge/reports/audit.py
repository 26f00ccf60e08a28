"""The page of one or several audits: what an attacker of each kind gets back, attack by attack, and what was not tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.artifacts.store import write_text
from expunge.errors import DataError
from expunge.reports import verdicts, words
from expunge.reports.redaction import redacted
from expunge.reports.view import audit_yardstick, audits_differ, read_audit
from expunge.types import CLAIMS

PAGE = "audit.html"
SHOWN_TRANSCRIPTS = 20
"""Hits that a page of one audit quotes; one of several quotes fewer of each."""
LONGEST = 600
"""Characters of a prompt or reply that are quoted."""
RED, VIOLET = (185, 28, 28), (91, 33, 182)
"""Facts that come out in words, and what is chosen or read otherwise."""


def write_audit(folders: Sequence[str | Path], out: str | Path | None = None, redact: bool = False) -> Path:
    """The page over audited run folders, by default `audit.html` in the folder, or beside the folders. Returns its path.

    `redact`: names, facts and what models wrote become marks. Raises DataError for a folder without an audit, or audits that do not compare.
    """
    if not folders:
        raise DataError("none of these runs has been audited. Run:  expunge attack RUN")
    paths = [Path(folder) for folder in folders]
    place = Path(out) if out else (paths[0] if len(paths) == 1 else paths[0].parent) / PAGE
    return write_page([(name_of(path), read_audit(path)) for path in paths], place, redact)


def name_of(run: str | Path) -> str:
    """What a page calls a run folder, a model folder or an address."""
    return Path(run).resolve().name


def write_page(audits: Sequence[tuple[str, dict[str, Any]]], out: Path, redact: bool = False) -> Path:
    """The page over audits by name. Raises DataError where they do not compare."""
    from jinja2 import Environment, FileSystemLoader

    _same_yardstick(audits)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    shown = [(name, redacted(result) if redact else result) for name, result in audits]
    first = shown[0][1]
    together = _together(shown)
    quoted = max(4, SHOWN_TRANSCRIPTS // len(shown))
    claims = dict.fromkeys(result["subject"]["claim"] for _, result in shown if "claim" in result["subject"])
    page = environment.get_template("audit.html.j2").render(
        title=shown[0][0] if len(shown) == 1 else f"{len(shown)} methods on {first['benchmark']}",
        runs=[
            {
                **_section(name, result, quoted),
                "any": result["figures"].get(f"{together}/run"),
                "guess": verdicts.figure(result, f"{together}/guess"),
                "differs": audits_differ(first, result, together),
            }
            for name, result in shown
        ],
        first=first,
        settings=words.plain_settings(first["settings"]),
        claims={claim: CLAIMS[claim] for claim in claims},
        suppresses=verdicts.SUPPRESSES,
        yardstick=verdicts.yardstick(first, together),
        tried=verdicts.attacks_of(together),
        heat=heat_map(shown),
        kinds=first["kinds"],
        beyond="the gold's" if first["gold"] else "guessing",
        redact=first.get("redacted", False),
        number=words.number,
    )
    write_text(out, page)
    return out


def _together(audits: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The figure of all attacks together that means the same for every run: with a guard among them, up to where guards claim anything."""
    return next((verdicts.covered(result) for _, result in audits if verdicts.is_guard(result)), "any")


def _same_yardstick(audits: Sequence[tuple[str, dict[str, Any]]]) -> None:
    name, first = audits[0]
    mine = audit_yardstick(first)
    for other, result in audits[1:]:
        theirs = audit_yardstick(result)
        different = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if different:
            raise DataError(
                f"{name} and {other} were audited differently ({', '.join(different)}), so one table would mislead.\n"
                "Attack them with the same rows, --gold, --target and --seed, or show them apart."
            )


def _section(name: str, result: dict[str, Any], quoted: int) -> dict[str, Any]:
    return {
        "name": name,
        "subject": result["subject"],
        "suite": result["audit"],
        "seconds": result.get("seconds"),
        "verdicts": verdicts.verdicts(result),
        "refusal": result["figures"].get("over_refusal/run"),
        "attacks": [
            {**row, "shown": verdicts.shown(row["name"]), "beyond": verdicts.excess(result, row["name"])}
            for row in result["attacks"]
        ],
        "variants": _variants(result),
        "notes": _notes(result),
        "transcripts": transcripts(result, quoted),
        "not_tried": result["not_tried"],
        "no_numbers": verdicts.no_numbers(result),
        "left_out": verdicts.left_out(result),
        "caveats": _caveats(result),
    }


# --- heat map -----------------------------------------------------------------------------------------------------------
class Cell(NamedTuple):
    """One attack on one model."""

    text: str
    why: str = ""
    """The interval, or why there is no number."""
    kind: str = "value"
    """value, barred (hatched) or absent."""
    colour: str = ""


def heat_map(audits: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """`names` of the columns (the target first), and `rows` (label, tier, kind, cells): success beyond the gold's."""
    first = audits[0][1]
    columns = [(name, result, "run") for name, result in audits]
    if first["target"]:
        columns.insert(0, ("target", first, "target"))
    attacks: dict[str, dict[str, Any]] = {}
    for _, result in audits:
        attacks |= {row["name"]: row for row in result["attacks"] if row["name"] not in attacks}
    together = [_together(audits)]
    if together != ["any"] and any(_weights_tried(result) for _, result in audits):
        together.append("any")
    rows = [
        (
            f"{'all together' if name == 'any' else 'all up to ' + name.removeprefix('any/')} (ASR_any)",
            "",
            "open",
            [_cell(first, result, name, who, "open") for _, result, who in columns],
        )
        for name in together
    ]
    for name, row in sorted(attacks.items(), key=lambda entry: _place(entry[1])):
        owner = next(result for _, result in audits if any(own["name"] == name for own in result["attacks"]))
        label = f"{row['id']} {verdicts.shown(name)}"
        rows.append((label, row["tier"], row["kind"], [_cell(owner, result, name, who, row["kind"]) for _, result, who in columns]))  # fmt: skip
    return {"names": [name for name, _, _ in columns], "rows": rows}


def _place(row: Mapping[str, Any]) -> tuple[str, bool, int, str]:
    """By tier, then A00 to A30, then W1 on."""
    digits = "".join(letter for letter in row["id"] if letter.isdigit())
    return row["tier"], not row["id"].startswith("A"), int(digits or 0), row["id"]


def _cell(owner: dict[str, Any], result: dict[str, Any], name: str, who: str, kind: str) -> Cell:
    alone = not name.startswith("any")
    if alone and not any(row["name"] == name for row in result["attacks"]):
        return Cell("", "not tried", "absent")
    if name == "any" and who == "run" and verdicts.is_guard(result) and _weights_tried(result):
        return Cell("n/a", verdicts.RETAINED, "barred")
    if differ := audits_differ(owner, result, name):
        return Cell("n/a", differ, "barred")
    beyond = verdicts.excess(result, name, who)
    if beyond is None:
        found = result["figures"].get(f"{name}/{who}") or {}
        why = found.get("why") or "there is nothing to weigh it against"
        return Cell("n/a", why, "barred")
    title = f"success {words.number(verdicts.figure(result, name, who), interval=True)}, {beyond['over']} {words.number(beyond['base'])}, excess {words.number(beyond, interval=True)}"
    return Cell(f"{beyond['value']:.2f}", title, "value", shade(beyond["value"], kind))


def _weights_tried(result: dict[str, Any]) -> list[str]:
    """Attacks of the table that need more than the interface, and count for ASR_any."""
    return [row["name"] for row in result["attacks"] if row["kind"] == "open" and row["tier"] > "T2"]


def shade(value: float, kind: str) -> str:
    """Background and ink of a cell: white at 0 and below, full at 1."""
    strength = min(1.0, max(0.0, value))
    full = RED if kind == "open" else VIOLET
    mixed = [round(255 + (channel - 255) * strength) for channel in full]
    return f"background: rgb({', '.join(map(str, mixed))}); color: {'#fff' if strength > 0.55 else '#1f2933'}"


# --- tables -------------------------------------------------------------------------------------------------------------
def _variants(result: dict[str, Any]) -> list[tuple[str, str, dict[str, float]]]:
    """(attack, construction, share by model) of attacks that have several constructions, the most telling first within each; without those
    that bring nothing back from any model.
    """
    rows = []
    for attack in result["attacks"]:
        made = attack["variants"]
        if len(made) < 2:
            continue
        for variant, rates in sorted(made.items(), key=lambda entry: -entry[1].get("run", 0.0)):
            if any(rates.values()):
                rows.append((f"{attack['id']} {verdicts.shown(attack['name'])}", variant or "plain", rates))
    return rows


def _notes(result: dict[str, Any]) -> list[tuple[str, str, dict[str, float | None]]]:
    """(attack, number, value by model) of what attacks measured beside success."""
    rows = []
    for attack in result["attacks"]:
        for name in dict.fromkeys(name for notes in attack["notes"].values() for name in notes):
            values = {who: notes.get(name) for who, notes in attack["notes"].items()}
            rows.append((f"{attack['id']} {verdicts.shown(attack['name'])}", name, values))
        for name, by_model in attack.get("figures", {}).items():
            values = {who: found["value"] for who, found in by_model.items()}
            rows.append((f"{attack['id']} {verdicts.shown(attack['name'])}", name, values))
    return rows


def transcripts(result: dict[str, Any], most: int = SHOWN_TRANSCRIPTS) -> list[dict[str, Any]]:
    """Hits of the strongest attacks, each attack in turn, of constructions and people that were not shown yet where there are any. Only
    attacks that bring more out of the run than out of the gold, for the others' hits may be chance.
    """
    strength = {}
    for row in result["attacks"]:
        beyond = verdicts.excess(result, row["name"])
        rate = beyond or verdicts.figure(result, row["name"])
        if row["kind"] == "open" and rate and rate["value"] > 0:
            strength[row["name"]] = rate["value"]
    order = sorted(strength, key=lambda name: -strength[name])
    waiting = {name: [row for row in result["rows"] if row["attack"] == name and row["hit"]] for name in order}  # fmt: skip
    picked: list[dict[str, Any]] = []
    shown: Counter[tuple[str, ...]] = Counter()
    while len(picked) < most and any(waiting.values()):
        for name in order:
            if waiting[name] and len(picked) < most:
                row = min(waiting[name], key=lambda row: shown[row["subject"],] + shown[name, row["variant"]])
                waiting[name] = [other for other in waiting[name] if other is not row]
                picked.append(row)
                shown.update([(row["subject"],), (name, row["variant"])])
    return [
        {
            "attack": f"{row['id']} {verdicts.shown(row['attack'])}",
            "variant": row["variant"] + (f", turn {row['turn']}" if row["turn"] > 1 else ""),
            "prompt": _short(row["prompt"]),
            "came": _marked(_short(row["generation"], row["reference"]), row["reference"]),
            "fact": row["reference"],
        }
        for row in picked
    ]


def _short(text: str, keep: str = "") -> str:
    """Long texts lose their middle; a reply keeps the place where `keep` stands."""
    if len(text) <= LONGEST:
        return text
    place = text.casefold().find(keep.casefold()) if keep else -1
    if place > LONGEST // 2:
        start = place - LONGEST // 2
        return f"… {text[start : start + LONGEST]}" + (" …" if start + LONGEST < len(text) else "")
    if keep:
        return f"{text[:LONGEST]} …"
    return f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def _marked(text: str, fact: str) -> tuple[str, str, str]:
    """What stands before the fact, the fact as written, and what follows; all of it first where the fact stands in other words."""
    place = text.casefold().find(fact.casefold()) if fact else -1
    if place < 0:
        return text, "", ""
    return text[:place], text[place : place + len(fact)], text[place + len(fact) :]


def _caveats(result: dict[str, Any]) -> list[str]:
    """What must be said beside the figures of any audit."""
    said = [
        "A hit is the fact's words in what was written, also where a refusal stands around them; broken text without them is none. A fact given away in other words is missed.",
        "Success of all attacks together (ASR_any) counts a fact as soon as one trial of one attack brings it out, so it grows with the number of attacks. It compares only where the same attacks were tried.",
        "Intervals are 95 %, the wider of Wilson's and that of whole people drawn again.",
        "These attacks are known ones with fixed constructions. Somebody who adapts to this model can do better.",
    ]
    mine = verdicts.figure(result, "any")
    if mine and mine["n"] < 300:
        said.append(f"{mine['n']} facts were tried. {verdicts.LEAST}")
    if not result["gold"]:
        said.append(
            "No gold was given: what a model that never knew would say by chance is estimated from wrong values of the same kind."
        )
    if not result["target"]:
        said.append(
            "No target was given: whether the facts were ever known, and over-refusal, are not known."
        )
    if verdicts.is_guard(result):
        said.append("This is a guard. Whoever gets past it, or has the weights, has everything.")
    return said
