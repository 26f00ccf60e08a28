"""What a person sees while they wait (on standard error), and what they get (on standard output)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from expunge.types import Figure

errors = Console(stderr=True, highlight=False)
output = Console(highlight=False, width=None if Console().is_terminal else 160)
"""Wide where nobody's terminal limits it."""


def tell(what: str) -> None:
    """One line of news."""
    errors.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {what}", soft_wrap=True)


@contextmanager
def progress() -> Generator[Any]:
    """A callback (what, done, total) that draws a bar on a terminal, and now and then a line elsewhere."""
    if errors.is_terminal:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=errors, transient=True) as bar:
            tasks: dict[str, Any] = {}

            def draw(what: str, done: int, total: int) -> None:
                task = tasks.setdefault(what, None)
                if task is None:
                    task = tasks[what] = bar.add_task(what, total=total)
                bar.update(task, completed=done, total=total)

            yield draw
        return
    said: dict[str, float] = {}

    def say(what: str, done: int, total: int) -> None:
        due = time.monotonic() - said.get(what, -math.inf) >= 10
        if due or done == total:
            said[what] = time.monotonic()
            tell(f"{what}: {done} of {total}")

    yield say


def print_json(content: Any) -> None:
    """One JSON document on standard output. Numbers that are not finite become null."""
    print(json.dumps(_finite(content), ensure_ascii=False, indent=1, allow_nan=False))


def print_figures(figures: dict[str, dict[str, Any] | Figure], title: str) -> None:
    """Figures as a table: value, 95 % interval, n, and why one is absent or what has to be said beside it."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("figure", "value", "95 % interval", "n", ""):
        table.add_column(heading, justify="right" if heading in ("value", "n") else "left", overflow="fold")
    for name, figure in figures.items():
        facts = (
            figure
            if isinstance(figure, dict)
            else {k: getattr(figure, k) for k in Figure.__dataclass_fields__}
        )
        spread = f"{text(facts['low'])} – {text(facts['high'])}" if facts["low"] is not None else ""
        table.add_row(name, text(facts["value"]), spread, str(facts["n"]), facts["why"] or facts["note"])
    output.print(table)


def text(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
