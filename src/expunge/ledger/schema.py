"""The tables, the steps from one version of them to the next, and what is refused as no ledger."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from expunge.ledger.requests import LedgerError
from expunge.ledger.sealing import put_in_place

APPLICATION = 0x4558504C
"""`PRAGMA application_id` of a ledger: 'EXPL'."""
PATIENCE = 10.0
"""Seconds that a write waits for another process's."""
RECOVER = (
    "Nothing was changed. Put a copy of the file (with its -wal, where there is one) back and check it with `expunge request verify`.\n"
    "What can still be read comes out with `expunge request export --texts`."
)


# --- migrations, each within one transaction -------------------------------------------------------------------------------
def _ledger(db: sqlite3.Connection) -> None:
    for statement in (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
        "CREATE TABLE history (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, tenant TEXT NOT NULL, "
        "event TEXT NOT NULL, request TEXT NOT NULL, detail TEXT NOT NULL, digest TEXT NOT NULL, prev TEXT NOT NULL, "
        "hash TEXT NOT NULL, mac TEXT NOT NULL) STRICT",
        "CREATE INDEX history_request ON history (request, seq) WHERE request != ''",
        "CREATE TRIGGER history_stays BEFORE UPDATE ON history BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END",
        "CREATE TRIGGER history_keeps BEFORE DELETE ON history BEGIN SELECT RAISE(ABORT, 'the history is append-only'); END",
        "CREATE TABLE requests (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, version INTEGER NOT NULL, "
        "status TEXT NOT NULL CHECK (status IN ('pending', 'active', 'withdrawn', 'expired')), "
        "epoch INTEGER NOT NULL REFERENCES history (seq), created INTEGER NOT NULL, effective INTEGER, expires INTEGER, due INTEGER, "
        "scope TEXT NOT NULL, action TEXT NOT NULL, method TEXT NOT NULL, content TEXT, idempotency TEXT UNIQUE, sealed BLOB) STRICT",
        "CREATE INDEX requests_epoch ON requests (epoch)",
        "CREATE INDEX requests_due ON requests (due) WHERE due IS NOT NULL",
        "CREATE TABLE request_keys (request TEXT PRIMARY KEY REFERENCES requests (id), wrapped BLOB NOT NULL) STRICT",
        "CREATE TABLE artifacts (seq INTEGER PRIMARY KEY REFERENCES history (seq), request TEXT NOT NULL REFERENCES requests (id), "
        "version INTEGER NOT NULL, folder TEXT NOT NULL, sha256 TEXT NOT NULL, recipe TEXT NOT NULL) STRICT",
        "CREATE INDEX artifacts_request ON artifacts (request)",
        "CREATE TABLE evidence (seq INTEGER PRIMARY KEY REFERENCES history (seq), request TEXT NOT NULL REFERENCES requests (id), "
        "version INTEGER NOT NULL, kind TEXT NOT NULL, sha256 TEXT NOT NULL, summary TEXT NOT NULL, path TEXT NOT NULL) STRICT",
        "CREATE INDEX evidence_request ON evidence (request)",
    ):
        db.execute(statement)


def _access_keys(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE access_keys (id TEXT PRIMARY KEY, name TEXT NOT NULL, tenant TEXT NOT NULL, scopes TEXT NOT NULL, "
        "sha256 TEXT NOT NULL, rpm INTEGER, tpm INTEGER, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER) STRICT"
    )


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_ledger, _access_keys]
"""In order; the file's `user_version` says how many of them it has had."""


def migrate(db: sqlite3.Connection, told: Callable[[int], object]) -> None:
    """Bring the tables up to date; `told` gets each version within its transaction. Raises LedgerError for a newer file."""
    while (held := _number(db, "user_version")) < len(MIGRATIONS):
        with transaction(db):
            if _number(db, "user_version") != held:  # another process was first
                continue
            MIGRATIONS[held](db)
            db.execute(f"PRAGMA user_version = {held + 1}")
            told(held + 1)


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None]:
    """Written whole or not at all, and by one process at a time."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


# --- files ------------------------------------------------------------------------------------------------------------------
def create(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """A new ledger: made beside, then given its name whole. Where another process made one meanwhile, that one stands."""
    beside = [path.with_name(path.name + end) for end in ("-wal", "-shm")]
    if left := next((file for file in beside if file.exists()), None):
        raise LedgerError(
            f"{left}: is there, but its ledger {path.name} is gone, and the last entries may be in it. "
            f"Put a copy of {path.name} back, or take {left.name} away."
        )
    new = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = connect(new, new=True)
        try:
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            fill(db)
        finally:
            db.close()  # leaves no -wal behind
        new.chmod(0o600)
        put_in_place(new, path)
    except OSError as error:
        raise LedgerError(f"{path}: a ledger cannot be made there: {error}.") from None
    finally:
        for end in ("", "-wal", "-shm"):
            new.with_name(new.name + end).unlink(missing_ok=True)


def connect(path: Path, new: bool = False) -> sqlite3.Connection:
    """A connection that commits what `transaction` says, durably, and leaves no traces of what is deleted.

    A ledger's file is opened by SQLite alone: when a process closes any other handle on it, its locks are gone, and another
    process may take the write-ahead file away under it.
    """
    address = f"{path.absolute().as_uri()}?mode={'rwc' if new else 'rw'}"
    db = sqlite3.connect(address, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    settings = ("synchronous = FULL", "secure_delete = ON", "foreign_keys = ON", "temp_store = MEMORY", "trusted_schema = OFF",
                "cell_size_check = ON")  # fmt: skip
    for setting in (*(("journal_mode = WAL",) if new else ()), *settings):
        db.execute(f"PRAGMA {setting}")
    return db


def refuse_broken(db: sqlite3.Connection, path: Path) -> None:
    """Raises LedgerError where the file is no ledger, does not hold together, or is of a newer version. Nothing is written."""
    if not path.stat().st_size:
        raise LedgerError(f"{path}: the ledger is empty: it was cut off.\n{RECOVER}")
    if _number(db, "application_id") != APPLICATION:
        raise LedgerError(f"{path}: is a database of another program, and no ledger.")
    held = _number(db, "user_version")
    if held > len(MIGRATIONS):
        raise LedgerError(
            f"{path}: a ledger of version {held}; this program reads up to {len(MIGRATIONS)}. Use the newer expunge that wrote it."
        )
    if db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        raise LedgerError(f"{path}: its journal is not as this program makes it.\n{RECOVER}")
    found = [line for (line,) in db.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise LedgerError(f"{path}: the file is broken: {found[0]}.\n{RECOVER}")


def refuse_changed_tables(db: sqlite3.Connection, path: Path) -> None:
    """Raises LedgerError where a table or a trigger is not as the migrations make it: the history would not be safe in it."""
    wanted = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for step in MIGRATIONS[: _number(db, "user_version")]:
            step(wanted)
        extra = _tables(db) ^ _tables(wanted)
    finally:
        wanted.close()
    if extra:
        name = min(name for name, _ in extra)
        raise LedgerError(f"{path}: '{name}' is not as this program makes it.\n{RECOVER}")


@contextmanager
def plain_errors(path: Path) -> Generator[None]:
    """What SQLite says, as a LedgerError."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LedgerError(
                f"{path}: another process has been writing for {PATIENCE:g} s. Try again."
            ) from error
        if name.startswith("SQLITE_NOTADB"):
            raise LedgerError(f"{path}: is no ledger, or its beginning is broken.\n{RECOVER}") from error
        if name.startswith("SQLITE_FULL"):
            raise LedgerError(f"{path}: the disk is full; nothing was written. Make room.") from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise LedgerError(
                f"{path}: cannot be opened for writing. It has to be a file, and its folder has to be writable too."
            ) from error
        raise LedgerError(f"{path}: the ledger is broken: {error}.\n{RECOVER}") from error


def _tables(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return {(name, sql) for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")}


def _number(db: sqlite3.Connection, pragma: str) -> int:
    return db.execute(f"PRAGMA {pragma}").fetchone()[0]
