"""Requests in and out of files: idempotent import, export, and what can still be read of a broken ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from expunge.data.dataset import Record, read_records, read_rows
from expunge.errors import ConfigError, DataError, UserError
from expunge.ledger.history import events, read_meta
from expunge.ledger.ledger import Added, Ledger
from expunge.ledger.requests import RemovalRequest
from expunge.ledger.rows import SELECT, Stored
from expunge.ledger.schema import connect, plain_errors
from expunge.ledger.sealing import Keyring, read_key

OWN = frozenset(RemovalRequest.model_fields) - {"id", "subject", "aliases"}
"""Fields that only a request has; rows of a forget set share the others."""


def import_file(ledger: Ledger, path: Path, *, actor: str, given: Mapping[str, Any] | None = None) -> Added:
    """Add what a file asks for, all or nothing; what is in the ledger already stays as it is. `given`: fields for rows that do not say.

    Reads lines of an export, requests, or rows of a forget set; of these, rows on one subject are one request. Raises DataError with
    file and line.
    """
    found = read_requests(path, given or {})
    named = (
        (where, wanted if wanted.id else wanted.model_copy(update={"id": ledger.name_of(wanted)}))
        for where, wanted in found
    )
    return ledger.add_all(named, actor=actor)


def export(ledger: Ledger, texts: bool = False) -> Iterator[dict[str, Any]]:
    """Each request, each row of the history, and what verification says. `texts`: with what the requests are about."""
    for entry in ledger.list():
        yield {"kind": "request", **entry.describe(texts)}
    for event in ledger.history():
        yield {"kind": "event", **event.describe()}
    yield {"kind": "head", **ledger.verify().describe()}


def salvage(path: Path, texts: bool = False) -> Iterator[dict[str, Any]]:
    """What can be read of a ledger that cannot be opened, in the shape of `export`; what cannot be read is told in its place."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        _copy_padded(path, copy)
        with plain_errors(path):
            db = connect(copy)
        try:
            yield from _salvaged_requests(db, path, texts)
            yield from _salvaged_history(db)
        finally:
            db.close()


def forget_request(records: tuple[Record, ...], where: str, **fields: Any) -> RemovalRequest:
    """Rows of a forget set as one request. `fields` go before what the rows say. Raises DataError."""
    subjects = list(dict.fromkeys(record.subject for record in records if record.subject))
    if not fields.get("subject") and len(subjects) > 1:
        raise DataError(
            f"{where}: its rows are about {len(subjects)} subjects, and a request is about one. Use `expunge request import` for a request each."
        )
    aliases = (name for record in records for name in record.aliases)
    rows = {
        "subject": subjects[0] if subjects else "",
        "pairs": [{"question": r.question, "answer": r.answer} for r in records if r.shape == "pair"],
        "statements": [r.text for r in records if r.shape == "text"],
    }
    merged = {**rows, **{name: value for name, value in fields.items() if value or name not in rows}}
    for name in ("pairs", "statements"):
        merged[name] = [*fields.get(name, ()), *rows[name]]
    named = dict.fromkeys([*fields.get("aliases", ()), *subjects, *aliases])
    merged["aliases"] = [name for name in named if name != merged["subject"]]
    return _parsed(merged, where)


def read_requests(path: Path, given: Mapping[str, Any]) -> list[tuple[str, RemovalRequest]]:
    """What a file asks for, and where in it. Raises DataError with file and line."""
    lines = list(read_rows(path))
    if not lines:
        raise DataError(f"{path} has no rows: there is nothing to add.")
    if not any(OWN.intersection(row) or "kind" in row for _, row in lines):
        return _forget_rows(path, given)
    found = []
    for where, row in lines:
        kind = row.get("kind", "request")
        if kind in ("event", "head"):
            continue
        if kind == "broken":
            raise DataError(
                f"{where}: could not be read when the file was made. Take the line out to do without it."
            )
        if kind != "request":
            raise DataError(
                f"{where}: kind '{kind}' is no line of an export. Take 'kind' out if this is a request of your own."
            )
        if "kind" in row:
            if row.get("status") in ("withdrawn", "expired"):
                continue
            wanted = row.get("request")
            if not isinstance(wanted, dict):
                raise DataError(
                    f"{where}: exported without its texts, so it cannot be enforced. Export with --texts."
                )
        else:
            wanted = {**given, **row}
        found.append((where, _parsed(wanted, where)))
    return found


def _forget_rows(path: Path, given: Mapping[str, Any]) -> list[tuple[str, RemovalRequest]]:
    """One request for each subject, and for each row without one."""
    parts: dict[tuple[str, str], list[Record]] = {}
    for number, record in enumerate(read_records(path)):
        parts.setdefault((record.subject, "" if record.subject else str(number)), []).append(record)
    return [
        (where := f"{path}, row {rows[0].id}", forget_request(tuple(rows), where, **given))
        for rows in parts.values()
    ]


def _parsed(values: Mapping[str, Any], where: str) -> RemovalRequest:
    try:
        return RemovalRequest.parse(values, where)
    except ConfigError as error:
        raise DataError(str(error)) from None


def _salvaged_requests(db: sqlite3.Connection, path: Path, texts: bool) -> Iterator[dict[str, Any]]:
    keys = None
    try:
        if key := read_key(path):
            keys = Keyring(key, read_meta(db, "ledger"))
    except (UserError, sqlite3.Error) as error:
        yield {"kind": "broken", "what": "key", "why": str(error)}
    last = -1
    while True:
        try:
            row = db.execute(SELECT + "WHERE r.number > ? ORDER BY r.number LIMIT 1", (last,)).fetchone()
        except sqlite3.Error as error:
            yield {"kind": "broken", "what": f"requests after number {last}", "why": str(error)}
            return
        if row is None:
            return
        found = Stored(*row)
        last = found.number
        try:
            yield {"kind": "request", **found.entry(keys, {}, {}).describe(texts)}
        except (UserError, ValueError) as error:
            yield {"kind": "broken", "what": f"request {found.id!r}", "why": str(error)}


def _salvaged_history(db: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    last = 0
    while True:
        try:
            found = events(db, last, None, 1)
        except (sqlite3.Error, ValueError) as error:
            yield {"kind": "broken", "what": f"history after row {last}", "why": str(error)}
            return
        if not found:
            return
        last = found[0].seq
        yield {"kind": "event", **found[0].describe()}


def _copy_padded(path: Path, copy: Path) -> None:
    """A copy to read from, of the length that its header tells: SQLite reads nothing of a file that is too short."""
    content = path.read_bytes()
    size = int.from_bytes(content[16:18]) * int.from_bytes(content[28:32])
    copy.write_bytes(content.ljust(min(size, 2 * len(content) + 2**20), b"\0"))
    wal = path.with_name(path.name + "-wal")
    if wal.exists():
        copy.with_name(wal.name).write_bytes(wal.read_bytes())
