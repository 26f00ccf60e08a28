"""Names that a forget set is about, found in its own text where no `subject` field gives them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from expunge.data.dataset import Record

_NAME = re.compile(r"[^\W\d_][\w'’.-]*")
_MIN_ROWS = 3
_MAX_WORDS = 5


def find_names(forget: Sequence[Record], retain: Sequence[Record]) -> tuple[str, ...]:
    """Runs of capitalised words that forget rows ask about (or, for raw texts, mention) and no retain row mentions.

    Kept are those of at least three rows and half as many rows as the most frequent one. A heuristic for scripts with
    capitals that finds subjects of about equal weight: show what it found, and prefer a `subject` field.
    """
    elsewhere = {
        name
        for record in retain
        for name in capital_runs(f"{record.question}\n{record.answer}\n{record.text}")
    }
    counts = Counter(
        name
        for record in forget
        for name in capital_runs(record.question or record.text)
        if name not in elsewhere
    )
    enough = max(_MIN_ROWS, max(counts.values(), default=0) / 2)
    frequent = {name: count for name, count in counts.items() if count >= enough}
    # a run that hardly ever stands without a longer one is a piece of that name
    whole = [
        name
        for name, count in frequent.items()
        if not any(
            f" {name} " in f" {other} " and name != other and frequent[other] >= 0.8 * count
            for other in frequent
        )
    ]
    return tuple(sorted(whole, key=lambda name: -counts[name]))


def capital_runs(text: str) -> set[str]:
    """All runs of two to five neighbouring capitalised words; a possessive 's is not part of a name."""
    runs: list[list[str]] = [[]]
    end = 0
    for match in _NAME.finditer(text):
        word = re.sub(r"['’]s$", "", match.group()).rstrip(".'’-")
        gap = text[end : match.start()]
        if not word[:1].isupper() or gap.strip(" "):
            runs.append([])
        if word[:1].isupper():
            runs[-1].append(word)
        end = match.end() if match.group().startswith(word) and len(match.group()) == len(word) else -1
        if end == -1:  # the word lost its ending: what follows is not the same name
            runs.append([])
            end = match.end()
    return {
        " ".join(run[i : i + n])
        for run in runs
        for n in range(2, _MAX_WORDS + 1)
        for i in range(len(run) - n + 1)
    }
