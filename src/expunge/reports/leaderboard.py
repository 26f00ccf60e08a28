"""A leaderboard: every result in a folder, in one table a yardstick. Results of different yardsticks never share a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.artifacts.store import write_text
from expunge.errors import DataError, did_you_mean
from expunge.reports import words
from expunge.reports.view import yardstick
from expunge.types import CLAIMS

RANKED_BY = ("overall/score", "forget_quality/ks_distance")
"""What a table is ranked by where its results have it; others stand in the order of their names."""
LOW_IS_GOOD = ("forget_quality/ks_distance",)


@dataclass
class Board:
    """The results of one yardstick."""

    benchmark: str
    version: int
    settings: dict[str, Any]
    gold: str
    columns: list[tuple[str, str, str]]
    rows: list[dict[str, Any]]
    """name, method, claim, seconds, figures; the target and gold, where they were measured, stand first."""
    ranked_by: str
    """The figure, or "" for a table in the order of names."""


def read_boards(folder: Path, by: str | None = None, lowest_first: bool = False) -> list[Board]:
    """All results below a folder: those that runs hold, and files that `expunge evaluate --out` wrote.

    `by`: the figure that tables are ranked by, the highest first unless `lowest_first`. Raises DataError when there is no result, or none has that figure.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder.")
    results = [result for path in sorted(folder.rglob("*.json")) if (result := _result(path))]
    if not results:
        raise DataError(
            f"{folder}: no results in it. `expunge evaluate RUN --benchmark ... --out {folder}/NAME.json` writes one."
        )
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(json.dumps(yardstick(result), sort_keys=True), []).append(result)
    known = {name for result in results for name in result["figures"]}
    if by is not None and by not in known:
        raise DataError(f"--by {by}: no result has such a figure.{did_you_mean(by, known)}")
    return [_board(group, by, lowest_first) for group in groups.values()]


def write_leaderboard(boards: list[Board], out: Path) -> Path:
    """One self-contained page. Returns its path."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("leaderboard.html.j2").render(
        boards=boards, number=words.number, claims=CLAIMS
    )
    write_text(out, page)
    return out


def _result(path: Path) -> dict[str, Any] | None:
    """The evaluation that a file holds, or None where it is something else. Raises DataError for a broken one in a run's evaluations."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        if path.parent.name == "evaluations":
            raise DataError(
                f"{path}: not readable ({error}). Evaluate the run again, or take the file away."
            ) from None
        return None
    wanted = {"benchmark", "settings", "metrics", "figures", "subject", "columns", "gold", "target"}
    return found if isinstance(found, dict) and wanted <= found.keys() and "attack" not in found else None


def _board(results: list[dict[str, Any]], by: str | None, lowest_first: bool) -> Board:
    first = results[0]
    rows = {row["sha256"]: row for row in map(_row, results)}  # the same weights measured twice are one row
    ranked = by or next((name for name in RANKED_BY if _has(rows.values(), name)), "")
    low = lowest_first if by else ranked in LOW_IS_GOOD
    columns = [tuple(column) for column in first["columns"] if _has(rows.values(), column[0])]
    ordered = sorted(rows.values(), key=lambda row: _rank(row, ranked, low))
    beside = [
        {"name": who, "method": "", "claim": "", "seconds": None, "figures": first["beside"][who]}
        for who in ("target", "gold")
        if who in first["beside"]
    ]
    return Board(
        first["benchmark"],
        first["version"],
        words.plain_settings(first["settings"]),
        first["gold"]["name"] if first["gold"] else "",
        columns,
        [*beside, *ordered],
        ranked,
    )


def _row(result: dict[str, Any]) -> dict[str, Any]:
    subject = result["subject"]
    return {
        "name": Path(subject["name"]).name,
        "sha256": subject["sha256"],
        "method": subject.get("method", ""),
        "claim": subject.get("claim", ""),
        "seconds": subject.get("seconds"),
        "figures": result["figures"],
    }


def _has(rows: Iterable[dict[str, Any]], name: str) -> bool:
    return any((row["figures"].get(name) or {}).get("value") is not None for row in rows)


def _rank(row: dict[str, Any], name: str, low: bool) -> tuple[bool, float, str]:
    """Best first, rows without the figure last, then by name."""
    value = (row["figures"].get(name) or {}).get("value")
    return value is None, 0.0 if value is None else value if low else -value, row["name"]
