"""The command line: one thin file a verb. Nothing heavy is imported before a verb runs."""

import os
import sys

import typer

from expunge.cli import (
    attack,
    bench,
    benchmarks,
    compare,
    corpus,
    evaluate,
    guard,
    harness,
    key,
    leaderboard,
    methods,
    plan,
    pocket,
    report,
    request,
    score_log,
    serve,
    unlearn,
    watermark,
)
from expunge.errors import UserError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

app = typer.Typer(
    name="expunge",
    help="Make a language model stop knowing, in its weights or while it answers, and measure how far that worked.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb, name in (
    (methods.methods, "methods"),
    (benchmarks.benchmarks, "benchmarks"),
    (plan.plan, "plan"),
    (corpus.corpus, "corpus"),
    (unlearn.unlearn, "unlearn"),
    (evaluate.evaluate, "evaluate"),
    (attack.attack, "attack"),
    (compare.compare, "compare"),
    (leaderboard.leaderboard, "leaderboard"),
    (harness.harness, "harness"),
    (report.report, "report"),
    (score_log.score_log, "score-log"),
    (pocket.pocket, "pocket"),
    (bench.bench, "bench"),
    (watermark.watermark, "watermark"),
    (serve.serve, "serve"),
):
    app.command(name)(verb)
for group, name in ((guard.app, "guard"), (request.app, "request"), (key.app, "key")):
    app.add_typer(group, name=name)


@app.callback(invoke_without_command=True)
def options(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    if version:
        from expunge import __version__

        print(__version__)
        raise typer.Exit
    if debug:
        os.environ["EXPUNGE_DEBUG"] = "1"


def main() -> None:
    """Run the command line. Errors that the person can mend end with their message and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except UserError as error:
        if os.environ.get("EXPUNGE_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(INTERRUPTED)
    except SystemExit as stop:  # what typer makes of an interruption
        if stop.code == INTERRUPTED:
            _say_interrupted()
        raise


def _say_interrupted() -> None:
    print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
