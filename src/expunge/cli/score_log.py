"""`expunge score-log`: TOFU's figures from a log of losses and answers, without any model."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.options import Json


def score_log(
    log: Annotated[
        Path,
        typer.Argument(
            help="JSONL, one object a row: task, idx, avg_gt_loss, avg_para_loss, avg_pert_loss, rougeL_recall."
        ),
    ],
    gold: Annotated[
        Path | None,
        typer.Option(
            "--gold", help="The log of a model retrained without the forget set, of the same split and rows."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Model utility, truth ratios and forget quality, in all three dialects. What a log does not hold is absent, with the reason."""
    from expunge.benchmarks.tofu import log_figures, read_log
    from expunge.cli import show

    found = log_figures(read_log(log), read_log(gold) if gold else None)
    if as_json:
        from dataclasses import asdict

        plain = {
            dialect: {name: asdict(figure) for name, figure in figures.items()}
            for dialect, figures in found.items()
        }
        show.print_json({"log": str(log), "gold": str(gold) if gold else None, "dialects": plain})
        return
    for dialect, figures in found.items():
        show.print_figures(dict(figures), f"\n{log.name}, dialect {dialect}")
