"""`expunge leaderboard`: every result in a folder, in one page."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Json


def leaderboard(
    folder: Annotated[
        Path, typer.Argument(help="Holds run folders, or files that `expunge evaluate --out` wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page. Default: FOLDER/leaderboard.html.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="The figure to rank by. Default: overall/score where it is there."),
    ] = None,
    lowest_first: Annotated[bool, typer.Option("--lowest-first", help="With --by: low is good.")] = False,
    as_json: Json = False,
) -> None:
    """One table for each benchmark, data and gold: results of different yardsticks never share one."""
    from dataclasses import asdict

    from expunge.cli import show
    from expunge.reports.leaderboard import read_boards, write_leaderboard

    boards = read_boards(folder, by, lowest_first)
    page = write_leaderboard(boards, out or folder / "leaderboard.html")
    if as_json:
        show.print_json({"page": str(page), "boards": [asdict(board) for board in boards]})
        return
    from rich.table import Table

    from expunge.reports.words import number

    for board in boards:
        said = " ".join(f"{name} {value}" for name, value in board.settings.items())
        table = Table(
            title=f"\n{board.benchmark} {said}"
            + (f", ranked by {board.ranked_by}" if board.ranked_by else ""),
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        table.add_column("model", no_wrap=True)
        for _, heading, _ in board.columns:
            table.add_column(heading, justify="right")
        for row in board.rows:
            table.add_row(
                row["name"],
                *(
                    "n/a" if figure and figure["value"] is None else number(figure)
                    for figure in (row["figures"].get(name) for name, _, _ in board.columns)
                ),
            )
        show.output.print(table)
    show.output.print(f"\nPage: {page}")
