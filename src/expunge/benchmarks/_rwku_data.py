"""Rows of RWKU, and of ORT's sets in the same layout, from wherever they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.benchmarks._data import Located, read_hub, read_table, require
from expunge.data.dataset import read_rows
from expunge.errors import ConfigError, DataError, did_you_mean

SETS = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
CHOICES = ("forget_mcp", "neighbor_mcp")
"""ORT's own: level 4, multiple choice."""
BESIDE = {"mia_forget": "forget_mia", "mia_retain": "retain_mia", "utility_fluency": "fluency"}
"""What a folder may lack: the hub's configuration to the file's name."""
INSTRUCTION = {"instruction": str, "subject": str}
FIELDS = {"query": str, "answer": str, "type": str, "subject": str}


class Rows(NamedTuple):
    probes: list[dict[str, Any]]
    """Each with "set" (forget or neighbor), "level" ("1" to "4"), and FIELDS."""
    texts: dict[str, list[dict[str, Any]]]
    """forget_mia and retain_mia: text, subject; without a name where the data has none."""
    instructions: list[dict[str, Any]]
    """instruction, subject."""


def read_rwku(data: str | Path, subject: str = "") -> Rows:
    """All rows, or those of one or several people (names parted by ';'). Raises DataError for a file, row or field, ConfigError for a name."""
    located, beside = _located(data)
    probes = []
    for (kind, level), rows in located.items():
        for (where, given), row in zip(rows, require(rows, FIELDS) if rows else [], strict=True):
            if not re.search(r"[^.\s]", row["answer"]):
                raise DataError(f"{where}: field 'answer' is {row['answer']!r}; expected a word at least.")
            probes.append({**given, "set": kind, "level": level})
    if not probes:
        raise DataError(f"{data}: there are no probes.")
    found = Rows(
        probes,
        {
            name: require(rows, {"text": str, "subject": str})
            for name, rows in beside.items()
            if rows and name != "fluency"
        },
        [
            row
            for located in beside.get("fluency", [])
            for row in require([located], INSTRUCTION if "subject" in located[1] else {"instruction": str})
        ],
    )
    return _of(found, subject) if subject else found


def is_rwku(data: str | Path) -> bool:
    """Whether `data` has RWKU's or ORT's layout."""
    folder = Path(data)
    if not folder.is_dir():
        return "rwku" in str(data).casefold()
    return (folder / "probes.jsonl").is_file() or bool(_people(folder)) or any(folder.glob(f"{SETS[0]}.*"))


def _of(rows: Rows, subject: str) -> Rows:
    """The rows of the named people."""
    names = [name.strip() for name in subject.split(";")]
    there = dict.fromkeys(row["subject"] for row in rows.probes)
    for name in names:
        if name not in there:
            raise ConfigError(
                f"subject '{name}': nobody of that name is in the data.{did_you_mean(name, there)} There are {', '.join([*there][:12])}"
                f"{' ...' if len(there) > 12 else ''}."
            )
    return Rows(
        [row for row in rows.probes if row["subject"] in names],
        {name: [row for row in texts if row["subject"] in names] for name, texts in rows.texts.items()},
        [row for row in rows.instructions if row.get("subject", names[0]) in names],
    )


def _located(
    data: str | Path,
) -> tuple[dict[tuple[str, str], Located], dict[str, Located]]:
    """Probes by (set, level), and the tables beside them by name."""
    folder = Path(data)
    if not folder.is_dir():
        probes = {_set_of(name): read_hub(data, name, "test", name) for name in SETS}
        return probes, {file: _maybe_hub(data, name, file) for name, file in BESIDE.items()}
    if people := _people(folder):
        return _from_people(people)
    beside = {file: _maybe_file(folder, file) or _maybe_file(folder, name) for name, file in BESIDE.items()}
    if not (folder / "probes.jsonl").is_file():
        probes = {_set_of(name): read_table(folder, name, files=("probes", *SETS)) for name in SETS}
        return probes | {_set_of(name): _maybe_file(folder, name) for name in CHOICES}, beside
    probes: dict[tuple[str, str], Located] = {}
    for where, row in read_rows(folder / "probes.jsonl"):
        key = (str(row.get("set")), str(row.get("level")))
        if key[0] not in ("forget", "neighbor") or key[1] not in ("1", "2", "3", "4"):
            raise DataError(
                f"{where}: set {key[0]!r}, level {key[1]!r}; expected forget or neighbor, and a level from 1 to 4."
            )
        probes.setdefault(key, []).append((where, row))
    return probes, beside


def _from_people(people: Sequence[Path]) -> tuple[dict[tuple[str, str], Located], dict[str, Located]]:
    probes: dict[tuple[str, str], Located] = {_set_of(name): [] for name in (*SETS, *CHOICES)}
    beside: dict[str, Located] = {file: [] for file in BESIDE.values()}
    for folder in people:
        for name in (*SETS, *CHOICES):
            probes[_set_of(name)] += _named(_maybe_file(folder, name), folder)
        for file in beside:
            beside[file] += _named(_maybe_file(folder, file), folder)
    return probes, beside


def _set_of(name: str) -> tuple[str, str]:
    """`neighbor_level2` to ("neighbor", "2"); multiple choice is level 4."""
    kind, _, level = name.partition("_")
    return kind, level.removeprefix("level").replace("mcp", "4")


def _people(folder: Path) -> list[Path]:
    """The authors' folders, one a person, in the order of their numbers: `2_Confucius`."""
    inner = folder / "Target" if (folder / "Target").is_dir() else folder
    found = [path for path in inner.iterdir() if path.is_dir() and re.match(r"\d+_", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("_")[0]))


def _named(rows: Located, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a person's folder; whose they are stands in the row, else in the folder's name without its number."""
    name = folder.name.partition("_")[2].replace("_", " ")
    return ((where, {"subject": name, **row}) for where, row in rows)


def _maybe_file(folder: Path, name: str) -> Located:
    path = next((path for path in sorted(folder.glob(f"{name}.json*")) if path.is_file()), None)
    return list(read_rows(path)) if path else []


def _maybe_hub(data: str | Path, config: str, name: str) -> Located:
    try:
        return read_hub(data, config, "test", name)
    except DataError:
        return []
