"""`expunge compare`: many runs in one table and one plot."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli.options import Json

CORE = (
    "forget_quality/ks_distance",
    "model_utility",
    "forget/accuracy",
    "any/T2",
    "over_refusal",
    "retain/accuracy",
    "forget_quality/ks_p",
)
"""What a narrow terminal shows first; the page and --json have all columns."""


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write a page with table, plot and every run.")
    ] = None,
    as_json: Json = False,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            help="Which evaluation, where the runs have several. Default: the one with a KS test, else the first.",
        ),
    ] = None,
    audits: Annotated[
        Path | None,
        typer.Option("--audits", help="Also write the page of their audits: verdicts, attacks by methods."),
    ] = None,
) -> None:
    """Put runs side by side: forgetting, utility, every part, attacks, cost."""
    from rich.markup import escape

    from expunge.cli import show
    from expunge.cli.auditing import check_place
    from expunge.reports.audit import write_audit
    from expunge.reports.page import table_rows, write_comparison
    from expunge.reports.view import read_run, same_yardstick
    from expunge.reports.words import guard_verdicts

    for place, option in ((out, "--out"), (audits, "--audits")):
        if place:
            check_place(place, option)
    folders = [folder for folder in runs if (folder / "manifest.json").is_file()] or runs
    for other in runs:
        if other not in folders and not other.is_file():  # `runs/*` also names pages
            show.tell(f"left out, not a finished run: {escape(str(other))}")
    views = [read_run(folder, benchmark) for folder in folders]
    same_yardstick(views)
    columns, rows = table_rows(views)
    audit_page = write_audit([view.folder for view in views if view.audit], audits) if audits else None
    page = write_comparison(folders, out, benchmark) if out else None
    if as_json:
        show.print_json(
            {
                "columns": {name: meaning for name, _, meaning in columns},
                "rows": rows,
                "verdicts": guard_verdicts(views),
                "page": str(page) if page else None,
                "audits": str(audit_page) if audit_page else None,
            }
        )
        return
    from rich.table import Table

    shown = fitting(columns, rows, show.output.width)
    hidden = len(columns) - len(shown)
    columns = shown
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    table.add_column("seconds", justify="right")
    for row in rows:
        seconds = f"{row['seconds']:.1f}" if row["seconds"] is not None else ""
        table.add_row(
            escape(row["name"]),
            *(cell(row["figures"][name]) for name, _, _ in columns),
            seconds,
        )
    show.output.print(table)
    if hidden:
        show.output.print(
            f"{hidden} more columns: in a wider terminal, with --json, or on a page (--out)", style="dim"
        )
    for verdict in guard_verdicts(views):
        show.output.print(f"• {verdict}", markup=False)
    for line in plot_lines(views):
        show.output.print(line, markup=False)
    if page:
        show.output.print(f"\nPage: {page}", markup=False)
    if audit_page:
        show.output.print(f"{'' if page else chr(10)}Audits: {audit_page}", markup=False)


def cell(figure: dict[str, Any] | None) -> str:
    from expunge.reports.words import number

    return "n/a" if figure and figure["value"] is None else number(figure)


def fitting(
    columns: list[tuple[str, str, str]], rows: list[dict[str, Any]], width: int
) -> list[tuple[str, str, str]]:
    """As many columns as a line has room for, the first of CORE before others; shown in their order."""
    room = width - max(len("second gold"), *(len(row["name"]) for row in rows)) - len("  seconds")
    chosen = set()
    places = {name: place for place, name in enumerate(CORE)}
    for name, heading, _ in sorted(columns, key=lambda column: places.get(column[0], len(CORE))):
        cells = (cell(row["figures"][name]) for row in rows)
        room -= 2 + max(len(word) for word in (*heading.split(), *cells))
        if room < 0:
            break
        chosen.add(name)
    return [column for column in columns if column[0] in chosen]


def plot_lines(views: list, width: int = 64, height: int = 14) -> list[str]:
    """Forgetting against utility in characters: utility to the right, closeness to the gold upwards; a letter a model."""
    first = views[0]
    named = [
        (label, first.value("model_utility", who), first.value("forget_quality/ks_distance", who))
        for who, label in (("target", "target"), ("gold", "gold"))
    ]
    named += [
        (view.name, view.value("model_utility"), view.value("forget_quality/ks_distance")) for view in views
    ]
    points = [(name, u, d) for name, u, d in named if u is not None and d is not None]
    if len(points) < 2:
        return []
    low, high = min(u for _, u, _ in points), max(u for _, u, _ in points)
    deepest = max(1e-9, *(d for _, _, d in points))
    grid = [[" "] * width for _ in range(height)]
    legend = []
    marks = {"target": "T", "gold": "G"}
    letters = iter("abcdefghijklmnopqrstuvwxyz" * len(points))
    for name, utility, distance in points:
        mark = marks.get(name) or next(letters)
        column = round((utility - low) / max(high - low, 1e-9) * (width - 1))
        line = round(distance / deepest * (height - 1))
        grid[line][column] = mark if grid[line][column] == " " else "*"
        legend.append(f"{mark} {name}")
    frame = [
        f"{0 if i == 0 else deepest:5.2f} |" if i in (0, height - 1) else "      |" for i in range(height)
    ]
    return [
        "",
        "KS distance to the gold (up is closer) against model utility (right is better)",
        *(left + "".join(row) for left, row in zip(frame, grid, strict=True)),
        "      +" + "-" * width,
        f"       {low:<.3f}" + " " * (width - 11) + f"{high:.3f}",
        "  ".join(legend) + "  (* several)",
    ]
