"""Rows of a benchmark's files, from a folder or the hub, with their fields checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.data.dataset import read_rows
from expunge.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
Located = list[tuple[str, dict[str, Any]]]
"""(where, row): `where` names file and line for messages."""


def read_table(
    data: str | Path,
    name: str,
    *,
    config: str | None = None,
    split: str = "train",
    files: Sequence[str] = (),
) -> Located:
    """Rows of one table: the file `name` with any of SUFFIXES in the folder `data`, else `config` and `split` of the hub data set `data`.

    `files`: what the whole folder has, for the message. Raises DataError saying what is missing and where to put it.
    """
    folder = Path(data)
    if folder.is_dir():
        path = next(
            (folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()),
            None,
        )
        if path is None:
            listed = ", ".join(f"{file}.jsonl" for file in files or (name,))
            raise DataError(f"{folder}: no {name}.jsonl. Such a folder has {listed}.")
        return read_file(path)
    return read_hub(data, config, split, name)


def read_file(path: Path) -> Located:
    """Rows of one file. Raises DataError where it has none."""
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{path}: there are no rows.")
    return rows


def read_hub(data: str | Path, config: str | None, split: str, name: str) -> Located:
    """Rows of a hub data set. Raises DataError saying what to download and where to put it when they cannot be had."""
    if str(data).count("/") != 1 or str(data).startswith("."):
        raise DataError(f"--data {data}: no such folder, and no hub id (owner/name) either.")
    from datasets import load_dataset

    try:
        rows = load_dataset(str(data), config, split=split).to_list()
    except Exception as error:  # the hub client raises many kinds; each means that the rows could not be had
        said = str(error).splitlines()[0] if str(error) else ""
        raise DataError(
            f"--data {data}: {config or 'its rows'} could not be had from the hub ({type(error).__name__}: {said}).\n"
            f"It may be gated (accept its terms and log in), or out of reach. Download it elsewhere, put its rows as {name}.jsonl into a folder,"
            " and give that folder."
        ) from error
    if not rows:
        raise DataError(f"--data {data}, {config or split}: there are no rows.")
    return [(f"{data}, {config or split}, row {number}", row) for number, row in enumerate(rows)]


def require(rows: Iterable[tuple[str, dict[str, Any]]], fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """The rows alone, each with all `fields` of their types, texts not empty. Raises DataError naming file, line and field."""
    found = []
    for where, row in rows:
        for field, kind in fields.items():
            if field not in row:
                raise DataError(
                    f"{where}: no field '{field}' (fields: {', '.join(row)}). A row has {', '.join(fields)}."
                )
            if not isinstance(row[field], kind) or (kind is int and isinstance(row[field], bool)):
                raise DataError(f"{where}: field '{field}' is {row[field]!r}; expected {_KINDS[kind]}.")
            if kind is str and not row[field].strip():
                raise DataError(f"{where}: field '{field}' is empty. Give it text, or take the row out.")
        found.append(row)
    return found


_KINDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
