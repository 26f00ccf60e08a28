"""What `expunge attack` reads and shows: the catalogue, whose questions are asked, and what came of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.cli import show
from expunge.errors import ConfigError, DataError, ModelError, StorageError

STYLES = {"fails": "bold red", "holds": "green", "na": "dim", "untried": "dim"}
"""Of a verdict; every other is yellow, for none of them speaks for the run."""
WIDE = 120
CITED = re.compile(r" \([^()]*arXiv:[^()]*\)")
"""The papers, which --json has."""
NO_ROWS = (
    "which facts are to come back? Give --benchmark pocket --data WORLD, --benchmark tofu --data FOLDER, or --forget FILE with --retain FILE. "
    "Only a run that was made in a pocket world knows its own."
)
NO_FACTS = (
    "no forget row says which words of its answer carry the fact, so no reply could be told right from wrong. "
    "Give each row a 'key' (those words), or a 'perturbed_answer' (a list of wrong answers in the same wording)."
)


# --- the catalogue ------------------------------------------------------------------------------------------------------
def print_list(rows: Sequence[Mapping[str, Any]], as_json: bool = False, run: str | None = None) -> None:
    """The attacks by tier. With a run, what it does not let itself be tried with is marked."""
    from rich.table import Table

    from expunge.attacks._attack import KINDS, TIERS

    marked = [{**row, **({"barred": barred(run, row)} if run else {})} for row in rows]
    if as_json:
        show.print_json(marked)
        return
    for tier, can in TIERS.items():
        here = [row for row in marked if row["tier"] == tier]
        if not here:
            continue
        whys = {row.get("barred", "") for row in here}
        everywhere = f" ({whys.pop()})" if len(whys) == 1 and "" not in whys else ""
        table = Table(
            box=None, pad_edge=False, title=f"\n{tier}: {can}{_plain(everywhere)}", title_justify="left"
        )
        for heading in ("id", "name", "suite", "kind", "needs", "RWKU type", "what"):
            table.add_column(heading, no_wrap=heading != "what", overflow="fold")
        for row in here:
            what = CITED.sub("", row["summary"]).rstrip(".")
            style = "dim" if row.get("barred") else ""
            said = f"{what}. Not here: {row['barred']}" if style and not everywhere else what
            table.add_row(
                row["id"],
                row["name"],
                row["suite"],
                row["kind"],
                row["needs"],
                row["rwku"],
                _plain(said),
                style=style,
            )
        show.output.print(table)
    show.output.print()
    for kind, means in KINDS.items():
        show.output.print(f"{kind}: {means}", markup=False)
    show.output.print(
        "quick is part of standard, and standard of full. One alone: expunge attack RUN --only prefill, or --only A08b."
    )


def barred(run: str, row: Mapping[str, Any]) -> str:
    """Why an attack cannot be tried on a run or model; empty where it can."""
    from expunge.run.audit import RETAINED, is_guard
    from expunge.run.make import is_address
    from expunge.run.measuring import base_of

    if is_guard(run) and row["tier"] in ("T3", "T4"):
        return RETAINED
    if row["needs"] == "weights" and (is_address(run) or is_address(base_of(run) or "")):
        return "the weights are not at hand: this is an address"
    return ""


# --- whose questions are asked ------------------------------------------------------------------------------------------
def rows_to_attack(
    run: str,
    benchmark: str | None,
    data: str | None,
    forget: Path | None,
    retain: Path | None,
    *,
    half: str | None = None,
    split: str | None = None,
    authors: int | None = None,
    dialect: str | None = None,
    template: str | None = None,
    mapping: Sequence[str] | None = None,
) -> tuple[Any, str | None]:
    """The benchmark, or the Dataset of somebody's own files, and the folder that golds may lie in. Raises ConfigError or DataError."""
    from expunge.cli.options import open_benchmark

    options: dict[str, Any] = {
        "half": half,
        "split": split,
        "authors": authors,
        "dialect": dialect,
        "template": template,
    }
    if forget is not None:
        strange = [
            name
            for name, value in {"benchmark": benchmark, "data": data, **options}.items()
            if value is not None and name != "template"
        ]
        if strange:
            raise ConfigError(
                f"--forget with --{strange[0]}: give files of one's own or a benchmark, not both."
            )
        from expunge.cli.unlearn import pairs
        from expunge.data.dataset import Dataset

        return Dataset.from_files(forget, retain, mapping=pairs(list(mapping or ()))), None
    if retain is not None:
        raise ConfigError("--retain alone: which rows are to be forgotten? Give --forget too.")
    if mapping:
        raise ConfigError("--map without --forget: it says what fields of one's own files are called.")
    if benchmark is None and data is not None:
        benchmark = "pocket" if (Path(data) / "world.json").is_file() else "tofu"
    if data is None and benchmark in (None, "pocket"):
        data = world_of(run)
        if data is None:
            raise ConfigError(f"{run}: {NO_ROWS}")
        benchmark = "pocket"
    return open_benchmark(str(benchmark), data, **options), data


def world_of(run: str) -> str | None:
    """The pocket world that a run was made in, or that a model lies in; None where it is of no world."""
    from expunge.run.measuring import base_of

    for name in (base_of(run), run):
        if name and (Path(name).parent / "world.json").is_file():
            return str(Path(name).parent)
    return None


# --- what cannot work is told before hours of attacks rather than after ------------------------------------------------------
def words_of(only: str | None) -> list[str]:
    """The attacks that --only names. Raises ConfigError where it names none: a whole suite is not what was meant."""
    words = [word.strip() for word in (only or "").split(",") if word.strip()]
    if only is not None and not words:
        raise ConfigError(f"--only '{only}': names no attack. `expunge attack --list` shows all.")
    return words


def check_limit(limit: float | None) -> None:
    """Raises ConfigError for what is no share."""
    if limit is not None and not 0 < limit < 1:
        raise ConfigError(f"--limit {limit:g}: a share between 0 and 1, such as 0.05.")


def check_out(out: Path | None) -> None:
    """Raises ConfigError for a report of an unknown kind, StorageError for a place where none can be written."""
    if out is None:
        return
    if out.suffix not in (".html", ".json"):
        raise ConfigError(f"--out {out}: a report is written as a page (.html) or as data (.json).")
    check_place(out, "--out")


def check_place(place: Path, option: str) -> None:
    """Raises StorageError where no file can be written."""
    if place.is_dir():
        raise StorageError(
            f"{option} {place}: is a folder, and a file is to be written there. Give the file a name."
        )
    above = next(folder for folder in place.absolute().parents if folder.exists())
    if not above.is_dir():
        raise StorageError(f"{option} {place}: {above} is a file, so nothing can be written in it.")
    if not os.access(above, os.W_OK):
        raise StorageError(f"{option} {place}: not allowed to write in {above}.")


def check_run(run: str, target: str | None = None) -> None:
    """Raises ModelError for a run folder whose base is gone or another one by now, DataError where its report cannot be read."""
    from expunge.artifacts.manifest import read_manifest
    from expunge.reports.view import AUDIT, read_result
    from expunge.run.audit import is_run
    from expunge.run.make import model_hash

    if not is_run(run):
        return
    report = Path(run) / "evaluations" / AUDIT
    if report.is_file():
        read_result(report)
    manifest = read_manifest(Path(run))
    base = manifest["base"]
    whole = manifest["kind"] == "weights"
    if whole and target is not None:
        return
    instead = ", or give the model before unlearning with --target" if whole else ""
    try:
        there = model_hash(base["name"])
    except ModelError as error:
        raise ModelError(
            f"{run}: made from {base['name']}, which cannot be read now. Put it back where it was{instead}.\n{error}"
        ) from None
    if there != base["sha256"]:
        raise ModelError(
            f"{run}: made from {base['name']} with hash {base['sha256'][:12]}, but what is there now is another model. "
            f"Put the original one back{instead}."
        )


def check_facts(rows: Any, attacks: Mapping[str, Any]) -> None:
    """Raises DataError where these attacks could read no reply, for no row says which words carry its fact."""
    from expunge.catalog import entries, load
    from expunge.run.material import material_of

    if all(attack.kind == "list" for attack in attacks.values()):
        return
    if any(case.value for case in material_of(rows).cases):
        return
    able = [name for name in entries("attack") if load("attack", name).kind == "list"]
    raise DataError(f"{NO_FACTS}\nWithout them there is only --only {','.join(able)}.")


# --- what came of it ------------------------------------------------------------------------------------------------------
def print_audit(
    run: str,
    result: dict[str, Any],
    out: Path | None = None,
    redact: bool = False,
    as_json: bool = False,
    limit: float | None = None,
) -> bool:
    """Verdicts, yardstick, every attack and what was not tried; writes the page of a run folder, and `out`. Returns False where `limit` is
    not shown to be kept.
    """
    from expunge.metrics.attack_success import least_n
    from expunge.reports.redaction import redacted
    from expunge.reports.verdicts import limit_said, verdicts

    document = redacted(result) if redact else result
    document = {**document, "verdicts": verdicts(result)}
    kept, said = (True, "") if limit is None else limit_said(result, limit, least_n(limit))
    if limit is not None:
        document["limit"] = {"share": limit, "kept": kept, "said": said}
    written = _write(run, document, out)
    if as_json:
        show.print_json({**document, "written": written})
    else:
        _print_verdicts(run, result)
        _print_yardstick(result)
        _print_attacks(result)
        _print_untried(result, written)
        for path in written:
            show.output.print(f"{'Page' if path.endswith('.html') else 'Data'}: {path}", markup=False)
    if said:
        place = show.output if kept and not as_json else show.errors
        place.print(said, markup=False, soft_wrap=True)
    return kept


def _write(run: str, document: dict[str, Any], out: Path | None) -> list[str]:
    """The files that were written. `document` is redacted already where it has to be."""
    from expunge.artifacts.store import write_json
    from expunge.reports.audit import PAGE, name_of, write_page

    places = [Path(run) / PAGE] if (Path(run) / "manifest.json").is_file() else []
    if out is not None and out.suffix == ".html":
        places = [out]
    for place in places:
        write_page([(name_of(run), document)], place)
    if out is not None and out.suffix == ".json":
        write_json(out, document)
        places.append(out)
    return [str(place) for place in places]


def _print_verdicts(run: str, result: dict[str, Any]) -> None:
    from expunge.reports.verdicts import SUPPRESSES, is_guard, verdicts

    claim = result["subject"].get("claim")
    show.output.print(f"\n[bold]{_plain(str(run))}[/bold]" + (f", claim: {claim}" if claim else ""))
    if is_guard(result):
        show.output.print(SUPPRESSES)
    for row in verdicts(result):
        style = STYLES.get(row["status"], "yellow")
        label = f"[{style}]{row['label']}[/{style}]: " if row["status"] != "na" else ""
        show.output.print(
            f"[bold]{row['tier']}[/bold] [dim]({row['can']})[/dim] {label}{_plain(row['sentence'])}"
        )


def _print_yardstick(result: dict[str, Any]) -> None:
    from rich.table import Table

    from expunge.reports.verdicts import attacks_of, covered, yardstick
    from expunge.reports.words import number

    found = yardstick(result)
    table = Table(
        box=None,
        pad_edge=False,
        title=f"\nYardstick: facts that come back under {attacks_of(covered(result))}",
        title_justify="left",
    )
    for heading in ("model", "ASR_any", "guess rate", "over-refusal"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for who, rate, guess, refusal in found["rows"]:
        table.add_row(who, *(_plain(number(figure, interval=True)) for figure in (rate, guess, refusal)))
    show.output.print(table)
    show.output.print(" ".join(found["said"]), markup=False)


def _print_attacks(result: dict[str, Any]) -> None:
    from rich.table import Table

    from expunge.reports.verdicts import excess
    from expunge.reports.words import number

    wide = show.output.width >= WIDE
    table = Table(box=None, pad_edge=False, title="\nAttacks", title_justify="left")
    headings = ["id", "name", "tier", *(["kind"] if wide else []), "n", "k", "run", "guess", "gold", "target", "excess"]  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("id", "name", "tier", "kind") else "right")
    barred: dict[str, list[str]] = {}
    for row in result["attacks"]:
        rate = row["asr"]["run"]
        if rate["value"] is None:
            barred.setdefault(row["why"] or rate["why"], []).append(row["name"])
        beyond = excess(result, row["name"])
        fails = beyond and beyond["low"] is not None and beyond["low"] > 0
        style = "dim" if rate["value"] is None else "red" if fails else ""
        asr = {who: number(row["asr"].get(who)) for who in ("run", "gold", "target")}
        table.add_row(
            row["id"],
            row["name"],
            row["tier"],
            *([row["kind"]] if wide else []),
            str(row["n"]),
            str(row["k"]),
            "n/a" if rate["value"] is None else asr["run"],
            number(row["guess"].get("run")),
            asr["gold"],
            asr["target"],
            _plain(number(beyond, interval=True)),
            style=style,
        )
    show.output.print(table)
    over = "gold" if result["gold"] else "guessing"
    show.output.print(
        f"excess: beyond {over}, red where its 95 % interval is above zero. Only attacks of kind open count for ASR_any.",
        style="dim",
    )
    for why, names in barred.items():
        show.output.print(f"n/a: {', '.join(names)}: {why}", markup=False, style="dim")


def _print_untried(result: dict[str, Any], written: Sequence[str]) -> None:
    from expunge.reports.verdicts import left_out

    missing = [f"{row['id']} {row['name']}" for row in result["not_tried"]]
    if missing:
        show.output.print(f"\nNot tried: {', '.join(missing)}", markup=False)
    out = left_out(result)
    if out:
        show.output.print(
            f"Trials left out: {sum(count for _, _, count in out)}; {'the report' if written else 'a report (--out, --json)'} says which and why.",
            markup=False,
        )


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
