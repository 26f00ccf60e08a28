"""`expunge report`: one self-contained page for a run."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Json


def report(
    run: Annotated[Path, typer.Argument(help="An evaluated run folder.")],
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="Other runs for table and plot. May be repeated.")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            "--benchmark",
            help="What the page is about, where the run has several evaluations; the others follow as tables.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write report.html in the run folder: what was asked, claim, yardstick, figures, plots, answers, costs, limits."""
    from expunge.cli import show
    from expunge.reports.page import write_report

    page = write_report(run, beside or [], benchmark)
    if as_json:
        show.print_json({"page": str(page)})
    else:
        show.output.print(str(page))
