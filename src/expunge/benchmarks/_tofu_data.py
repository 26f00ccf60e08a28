"""The rows of TOFU's files, from a folder or the hub, each with its place in the full set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.benchmarks._data import SUFFIXES, Located, read_table, require
from expunge.errors import DataError

AUTHORS, PAIRS = 200, 20
REWRITTEN = 20
"""So many of the first and of the last authors have rewrites, which evaluation needs."""
HOLDOUTS = {"forget01": "holdout01", "forget05": "holdout05", "forget10": "holdout10"}
"""Never-trained rows beside a split."""
PAIR = {"question": str, "answer": str}
OPTIONS = {**PAIR, "perturbed_answer": list}
REWRITES = {**OPTIONS, "paraphrased_answer": str}
FIELDS: dict[str, dict[str, type]] = {
    "full": PAIR,
    "forget10_perturbed": REWRITES,
    "retain_perturbed": REWRITES,
    "real_authors": OPTIONS,
    "world_facts": OPTIONS,
}
FILES = tuple(FIELDS)
FIRST = {"full": 0, "forget10_perturbed": (AUTHORS - REWRITTEN) * PAIRS, "retain_perturbed": 0}
"""Place in the full set of the first row of a file about the invented authors: rows follow one another from there."""
SIZES = {
    "full": AUTHORS * PAIRS,
    "forget10_perturbed": REWRITTEN * PAIRS,
    "retain_perturbed": REWRITTEN * PAIRS,
}


def read_part(data: str | Path, name: str) -> list[dict[str, Any]]:
    """Rows of one of FILES, from a folder or the hub, with `id` and `author` from their places where they have none (the authors' rows
    have neither). Raises DataError for a row without a field.
    """
    config = name if name in FIRST else f"{name}_perturbed"
    file = config if _has(data, config) else name
    table = read_table(data, file, config=config, files=FILES)
    rows = require(table, FIELDS[name])
    if "perturbed_answer" in FIELDS[name]:
        _refuse_uneven(table)
    if name not in FIRST:
        return [{"id": i, **row} for i, row in enumerate(rows)]
    return [{"id": i, "author": i // PAIRS, **row} for i, row in enumerate(rows, FIRST[name])]


def _refuse_uneven(table: Located) -> None:
    """Raises DataError where a row has no wrong answers, or others in number than the first row has."""
    count = len(table[0][1]["perturbed_answer"])
    for where, row in table:
        wrong = row["perturbed_answer"]
        if not wrong or not all(isinstance(text, str) and text for text in wrong):
            raise DataError(f"{where}: field 'perturbed_answer' is {wrong!r}; expected a list of texts.")
        if len(wrong) != count:
            raise DataError(f"{where}: {len(wrong)} wrong answers, where the first row has {count}.")


def _has(data: str | Path, name: str) -> bool:
    return any((Path(data) / f"{name}{suffix}").is_file() for suffix in SUFFIXES)


def read_holdout(data: str | Path, split: str) -> tuple[list[dict[str, Any]], str]:
    """The never-trained rows beside a split, and why there are none."""
    if split not in HOLDOUTS:
        return [], f"TOFU has never-trained rows for {', '.join(HOLDOUTS)} alone, not for {split}"
    name = HOLDOUTS[split]
    if Path(data).is_dir() and not _has(data, name):
        return [], f"TOFU's holdout split is not in this folder: {name}.jsonl"
    try:
        found = read_table(data, name, config=name)
    except DataError:
        if Path(data).is_dir():
            raise
        return [], f"TOFU's holdout split is not in this data set: {name}"
    return require(found, PAIR), ""
