"""One self-contained HTML page for a run, or for several runs side by side. No network, no scripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.artifacts.store import write_text
from expunge.reports import plots, words
from expunge.reports.view import RunView, audits_differ, read_run, same_yardstick
from expunge.types import CLAIMS

BESIDE = {"target": "target", "gold": "gold", "floor": "second gold"}
"""Who stands beside a run in an evaluation, and what pages call it."""
SHOWN_ANSWERS = 8
"""Rows of side-by-side answers per part."""


def write_report(folder: Path, beside: Sequence[Path] = (), benchmark: str | None = None) -> Path:
    """`report.html` in a run folder, with other runs beside it in table and plot. Returns its path.

    `benchmark`: the one that the page is about (see `view.read_run`). Raises ModelError or DataError when a folder is no evaluated run,
    or the runs do not compare.
    """
    return _write([read_run(one, benchmark) for one in (folder, *beside)], folder / "report.html", detailed=1)


def write_comparison(folders: Sequence[Path], out: Path, benchmark: str | None = None) -> Path:
    """One page over many runs, each with its own section. Returns its path."""
    runs = [read_run(folder, benchmark) for folder in folders]
    return _write(runs, out, detailed=len(runs))


def table_rows(runs: Sequence[RunView]) -> tuple[list[tuple[str, str, str]], list[dict[str, Any]]]:
    """The comparison as columns (figure, heading, meaning) and rows: target, gold and second gold first, then the runs."""
    first = runs[0]
    columns = _columns(first)
    rows: list[dict[str, Any]] = []
    for who, label in BESIDE.items():
        if who in first.evaluation["beside"]:
            rows.append(
                {
                    "name": label,
                    "claim": "",
                    "figures": {name: _of_first(runs, name, who) for name, _, _ in columns},
                    "seconds": None,
                }
            )
    for run in runs:
        rows.append(
            {
                "name": run.name,
                "method": run.manifest["method"],
                "claim": run.manifest["claim"],
                "figures": {name: _comparable(runs, run, name) for name, _, _ in columns},
                "seconds": run.manifest["seconds"]["total"],
            }
        )
    shown = {
        name
        for row in rows
        for name, figure in row["figures"].items()
        if figure and figure["value"] is not None
    }
    return [column for column in columns if column[0] in shown], rows


def _first_audited(runs: Sequence[RunView]) -> RunView:
    return next((run for run in runs if run.audit), runs[0])


def _of_first(runs: Sequence[RunView], name: str, who: str) -> dict[str, Any] | None:
    """What stands beside the runs is taken from the first, and what an audit tells of it from the first that was audited."""
    return (_first_audited(runs) if _is_audits(name) else runs[0]).figure(name, who)


def _comparable(runs: Sequence[RunView], run: RunView, name: str) -> dict[str, Any] | None:
    """A run's figure, or the reason why its audit's does not stand beside the first one's."""
    first = _first_audited(runs).audit
    found = run.figure(name)
    if found and first and run.audit and _is_audits(name) and (why := audits_differ(first, run.audit, name)):
        return {"value": None, "n": 0, "low": None, "high": None, "why": why, "note": ""}
    return found


def _is_audits(name: str) -> bool:
    return any(name == figure for figure, _, _ in words.ATTACKS)


def _columns(run: RunView) -> list[tuple[str, str, str]]:
    """Those of the benchmark, with the attacks after the forget set's first behaviour, or at the end."""
    columns = [tuple(column) for column in run.evaluation["columns"]]
    names = [name for name, _, _ in columns]
    place = names.index("forget/accuracy") + 1 if "forget/accuracy" in names else len(names)
    return [*columns[:place], *words.ATTACKS, *columns[place:]]


def _write(runs: list[RunView], out: Path, detailed: int) -> Path:
    from jinja2 import Environment, FileSystemLoader

    same_yardstick(runs)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = lambda value: f"{value:.4g}" if isinstance(value, float) else value
    columns, rows = table_rows(runs)
    first = runs[0]
    page = environment.get_template("page.html.j2").render(
        title=first.name if detailed == 1 else f"{len(runs)} methods on {first.evaluation['benchmark']}",
        runs=[_section(run, out) for run in runs[:detailed]],
        columns=columns,
        rows=rows,
        number=words.number,
        claims={claim: CLAIMS[claim] for claim in dict.fromkeys(run.manifest["claim"] for run in runs)},
        yardstick=_yardstick(first),
        verdicts=words.guard_verdicts(runs),
        scatter=_scatter(runs),
    )
    write_text(out, page)
    return out


def _yardstick(run: RunView) -> dict[str, Any]:
    evaluation = run.evaluation
    return {
        "benchmark": evaluation["benchmark"],
        "version": evaluation["version"],
        "settings": words.plain_settings(evaluation["settings"]),
        "target": run.figure("forget_quality/ks_p", "target"),
        "target_distance": run.figure("forget_quality/ks_distance", "target"),
        "floor": run.figure("forget_quality/ks_p", "floor"),
        "floor_distance": run.figure("forget_quality/ks_distance", "floor"),
        "gold": evaluation["gold"],
    }


def _scatter(runs: Sequence[RunView]) -> str:
    first = runs[0]

    def point(name: str, run: RunView, who: str):
        utility, distance = run.figure("model_utility", who), run.figure("forget_quality/ks_distance", who)
        if not utility or not distance or utility["value"] is None or distance["value"] is None:
            return None
        spread = [(f["low"], f["high"]) if f["low"] is not None else None for f in (utility, distance)]
        return name, utility["value"], distance["value"], *spread

    points = [point(label, first, who) for who, label in BESIDE.items()]
    points += [point(run.name, run, "run") for run in runs]
    points = [p for p in points if p]
    return (
        plots.forgetting_against_utility(
            points, first.value("forget_quality/ks_distance", "floor"), first.value("model_utility", "gold")
        )
        if points
        else ""
    )


def _section(run: RunView, out: Path) -> dict[str, Any]:
    manifest, evaluation = run.manifest, run.evaluation
    recipe = manifest["recipe"]
    curve = _search_curve(run)
    return {
        "name": run.name,
        "manifest": manifest,
        "recipe": {
            key: value for key, value in recipe.items() if key not in ("method", "seed", "source", "train")
        },
        "train": recipe.get("train"),
        "limits": words.limits(run),
        "figures": sorted(evaluation["figures"].items()),
        "trajectory": plots.trajectory(
            run.trajectory, manifest["chosen_step"], run.value("forget_quality/ks_distance", "floor")
        )
        if len(run.trajectory) > 1
        else "",
        "ratios": plots.truth_ratio_curves(evaluation["truth_ratios"], run.name)
        if "truth_ratios" in evaluation
        else "",
        "curve": plots.search_curve(curve["curve"], curve["strength"]) if curve else "",
        "calibration": _calibration(run),
        "answers": {part: _answers(run, evaluation["roles"][part]) for part in ("forget", "retain")}
        if "roles" in evaluation
        else {},
        "written": [] if "roles" in evaluation else _written(evaluation),
        "others": [_other(other) for other in run.others],
        "prefilled": run.audit_rows("prefill")[:SHOWN_ANSWERS],
        "audit": _audit_page(run, out),
    }


def _audit_page(run: RunView, out: Path) -> str:
    """Where the audit's page lies, seen from this one; empty where there is none."""
    page = run.folder / "audit.html"
    if run.audit is None or not page.is_file():
        return ""
    return Path(os.path.relpath(page.resolve(), out.resolve().parent)).as_posix()


def _answers(run: RunView, task: str) -> list[dict[str, str]]:
    """Side by side: what was asked, the right answer, and what target, gold and run wrote. Of forget rows, only those that
    the figures count.
    """
    evaluation = run.evaluation
    attacked = {row["case"] for row in run.audit_rows("prefill")}
    counted = attacked if attacked and task == evaluation["roles"]["forget"] else None
    picked = [
        i
        for i, row in enumerate(evaluation["rows"])
        if row["task"] == task and (counted is None or row["id"] in counted)
    ]
    shown = min(SHOWN_ANSWERS, len(picked))
    spread = [
        picked[(k * len(picked) // shown + k) % len(picked)] for k in range(shown)
    ]  # other people, other questions
    return [
        {
            "prompt": evaluation["rows"][i]["prompt"],
            "reference": evaluation["rows"][i]["reference"],
            **{who: answers[i] for who, answers in evaluation["answers"].items()},
        }
        for i in spread
    ]


def _written(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Some of what was written, spread over the tasks of a benchmark that has no forget and retain answers side by side."""
    rows = [row for row in evaluation["rows"] if row.get("generation") is not None and "prompt" in row]
    step = max(1, len(rows) // SHOWN_ANSWERS)
    return [
        {
            "task": row["task"],
            "prompt": row["prompt"],
            "reference": row.get("reference", ""),
            "generation": row["generation"],
        }
        for row in rows[::step][:SHOWN_ANSWERS]
    ]


def _other(evaluation: dict[str, Any]) -> dict[str, Any]:
    """One more benchmark of a run: its columns, the run beside target and gold."""
    beside = {BESIDE[who]: figures for who, figures in evaluation["beside"].items()}
    return {
        "benchmark": evaluation["benchmark"],
        "settings": words.plain_settings(evaluation["settings"]),
        "who": ["run", *beside],
        "figures": [
            (heading, meaning, [figures.get(name) for figures in (evaluation["figures"], *beside.values())])
            for name, heading, meaning in evaluation["columns"]
        ],
    }


def _search_curve(run: RunView) -> dict[str, Any] | None:
    guard = run.manifest.get("guard", {})
    return guard if guard.get("curve") else None


def _calibration(run: RunView) -> str:
    found = run.manifest.get("guard", {}).get("calibration")
    return words.calibration_sentence(found) if found else ""
