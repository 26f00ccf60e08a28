"""`expunge compare`: many runs in one table and one plot."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Json

WIDE = 130
CORE = (
    "forget_quality/ks_p",
    "forget_quality/ks_distance",
    "model_utility",
    "forget/accuracy",
    "prefill",
    "retain/accuracy",
)
"""What a terminal narrower than WIDE shows; the page and --json have all columns."""


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
) -> None:
    """Put runs side by side: forgetting, utility, every part, attacks, cost."""
    from expunge.cli import show
    from expunge.reports.page import table_rows, write_comparison
    from expunge.reports.view import read_run, same_yardstick
    from expunge.reports.words import guard_verdicts, number

    folders = [folder for folder in runs if (folder / "manifest.json").is_file()] or runs
    for other in runs:
        if other not in folders and not other.is_file():  # `runs/*` also names pages
            show.tell(f"left out, not a finished run: {other}")
    views = [read_run(folder, benchmark) for folder in folders]
    same_yardstick(views)
    columns, rows = table_rows(views)
    page = write_comparison(folders, out, benchmark) if out else None
    if as_json:
        show.print_json(
            {
                "columns": {name: meaning for name, _, meaning in columns},
                "rows": rows,
                "verdicts": guard_verdicts(views),
                "page": str(page) if page else None,
            }
        )
        return
    from rich.table import Table

    core = [column for column in columns if column[0] in CORE]
    if show.output.width < WIDE and core:
        columns = core
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    table.add_column("seconds", justify="right")
    for row in rows:
        seconds = f"{row['seconds']:.1f}" if row["seconds"] is not None else ""
        table.add_row(
            row["name"],
            *(
                "n/a" if f and f["value"] is None else number(f)
                for f in (row["figures"][name] for name, _, _ in columns)
            ),
            seconds,
        )
    show.output.print(table)
    for verdict in guard_verdicts(views):
        show.output.print(f"• {verdict}", markup=False)
    for line in plot_lines(views):
        show.output.print(line, markup=False)
    if page:
        show.output.print(f"\nPage: {page}")


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
