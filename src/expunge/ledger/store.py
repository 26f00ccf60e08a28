"""The file under a ledger: how it is made, opened, checked, read and written, and the history that every write is told in."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from expunge.ledger import rows
from expunge.ledger.history import (
    SECOND,
    Event,
    History,
    Verification,
    events,
    now,
    read_meta,
    verify,
    write_meta,
)
from expunge.ledger.requests import LedgerError
from expunge.ledger.rows import Stored, stored
from expunge.ledger.schema import (
    MIGRATIONS,
    PATIENCE,
    RECOVER,
    connect,
    create,
    migrate,
    plain_errors,
    refuse_broken,
    refuse_changed_tables,
    transaction,
)
from expunge.ledger.sealing import VARIABLE, Keyring, key_path, make_key, read_key

LEDGER = "ledger"
"""Who acts where time does."""
OWN_EVENTS = frozenset(
    ["ledger made", "migrated", "added", "changed", "in force", "withdrawn", "expired", "artifact", "evidence", "key added", "key revoked"]
)  # fmt: skip
"""Events that only the ledger itself writes."""
CLEARING = 2000
"""Milliseconds that clearing the write-ahead file waits for readers; what is left is cleared by the next write."""


class Store:
    """Reads never wait for writes. A method that writes returns when the entry is on the disk."""

    def __init__(self, path: Path, keys: Keyring, clock: Callable[[], float]):
        self.path, self._keys, self._clock = path, keys, clock
        self._place = str(path.absolute())
        self._file = self._file_there()
        self._db, self._reader = connect(path), connect(path)
        self._reader.execute("PRAGMA query_only = ON")
        self._history = History(self._db, keys, clock)
        self._write_lock, self._read_lock = threading.RLock(), threading.Lock()
        self._traces = True
        """Whether destroyed texts may stand in the write-ahead file still."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        key: bytes | None = None,
        create: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """`key`: 32 bytes; default: $EXPUNGE_LEDGER_KEY in base64, else the file beside the ledger, which `create` makes.
        Raises LedgerError for a ledger that is missing, broken, of another key, or of a newer version.
        """
        path = Path(path)
        if not path.exists():
            if not create:
                raise LedgerError(
                    f"{path}: there is no ledger. Name the right file with --ledger; `expunge request add` makes a new one."
                )
            _make(path, key, clock)
        with plain_errors(path):
            opened = cls._open(path, key, clock)
            try:
                found = opened.verify()
                if not found.ok:
                    raise LedgerError(f"{path}: {found.why}.\n{RECOVER}")
                with opened._write_lock:
                    opened._clear_traces(0)
            except BaseException:
                opened.close()
                raise
        return opened

    @classmethod
    def _open(cls, path: Path, key: bytes | None, clock: Callable[[], float]) -> Self:
        db = connect(path)
        try:
            refuse_broken(db, path)
            keys = Keyring(key or _key_of(path), read_meta(db, "ledger"))
            if read_meta(db, "check") != keys.check:
                raise LedgerError(
                    f"{path}: the key is another ledger's, or the ledger's mark of its key is broken. Give the right one."
                )
            history = History(db, keys, clock)
            migrate(db, lambda version: history.append("migrated", actor=LEDGER, detail={"version": version}))
            refuse_changed_tables(db, path)
        finally:
            db.close()
        return cls(path, keys, clock)

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            if self._traces:
                self._clear_traces(0)
            self._reader.close()
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what has changed ---
    @property
    def epoch(self) -> int:
        """Number of the last row of the history that changed what is enforced."""
        with self._reading() as db:
            return db.execute("SELECT coalesce(max(epoch), 0) FROM requests").fetchone()[0]

    @property
    def rows(self) -> int:
        """Number of the last row of the history."""
        with self._reading() as db:
            return db.execute("SELECT coalesce(max(seq), 0) FROM history").fetchone()[0]

    def next_change(self) -> float | None:
        """Unix time at which a request comes into force or expires by itself."""
        with self._reading() as db:
            due = _due(db)
        return None if due is None else due / SECOND

    def data_version(self) -> int:
        """Another number whenever anybody has written, this process included. Takes microseconds."""
        with self._reading() as db:  # never written on, so that this process's own writes count too
            return db.execute("PRAGMA data_version").fetchone()[0]

    # --- history --------------------------------------------------------------------------------------------------------------
    def record(
        self,
        event: str,
        *,
        actor: str,
        tenant: str = "",
        request: str = "",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Any other event, such as a server's start. It stays readable for ever: no texts of requests."""
        if event in OWN_EVENTS:
            raise ValueError(f"'{event}' is an event of the ledger's own")
        with self._writing():
            self._history.append(event, actor=actor, tenant=tenant, request=request, detail=detail)

    def history(self, since: int = 0, request: str | None = None, limit: int | None = None) -> list[Event]:
        """Rows after number `since`."""
        with self._reading() as db:
            return events(db, since, request, limit)

    def verify(self, known: str = "") -> Verification:
        """`known`: a head that was noted earlier ('12:ab34...'), which has to be in the history still."""
        return verify_file(self.path, self._keys, known)

    # --- inside -------------------------------------------------------------------------------------------------------------------
    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        with self._read_lock, plain_errors(self.path):
            self._refuse_replaced()
            yield self._reader

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """One transaction, in which time has caught up first."""
        with self._write_lock, plain_errors(self.path):
            self._refuse_replaced()
            with transaction(self._db):
                self._catch_up(self._db)
                yield self._db
            if self._traces:
                self._clear_traces(CLEARING)

    def _file_there(self) -> tuple[int, int] | None:
        """The file that stands in the ledger's place now."""
        try:
            found = os.stat(self._place)  # noqa: PTH116 - a third of the time of Path's
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _refuse_replaced(self) -> None:
        """SQLite would go on with a file that has no name any more, and nobody else would hear of what is written into it."""
        if self._file_there() != self._file:
            raise LedgerError(
                f"{self.path}: the ledger was taken away or replaced while it was in use. Put it back, or start again on the new one."
            )

    def _settle(self) -> None:
        """Bring into force and let expire what is due."""
        with self._reading() as db:
            due = _due(db)
            late = due is not None and due <= now(db, self._clock)
        if late:
            with self._writing():
                pass

    def _catch_up(self, db: sqlite3.Connection) -> None:
        at = now(db, self._clock)
        while found := stored(db, "WHERE r.due <= ? ORDER BY r.due, r.number", (at,)):
            for row in found:
                if row.status == "pending":
                    self._save(db, row.begun(), "in force", LEDGER)
                else:
                    self._save(db, row.ended("expired"), "expired", LEDGER)
                    self._traces = True

    def _save(
        self,
        db: sqlite3.Connection,
        row: Stored,
        event: str,
        actor: str,
        detail: dict[str, Any] | None = None,
    ) -> None:
        seq = self._history.append(
            event, actor=actor, tenant=row.tenant, request=row.id, detail=detail, digest=row.digest()
        )
        row.save(db, seq)

    def _clear_traces(self, patience: int) -> None:
        """Empty the write-ahead file, in which destroyed texts stand still."""
        self._db.execute(f"PRAGMA busy_timeout = {patience}")
        busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._db.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
        self._traces = bool(busy)


def verify_file(path: Path, keys: Keyring | None = None, known: str = "") -> Verification:
    """Verify a ledger as far as is possible with what there is: without its key, the chain alone. Raises LedgerError for no ledger."""
    with plain_errors(path):
        db = connect(path)
        try:
            refuse_broken(db, path)
            refuse_changed_tables(db, path)
            db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            db.execute("BEGIN")
            if keys is None and (key := read_key(path)):
                keys = Keyring(key, read_meta(db, "ledger"))
            return verify(db, keys, rows.held, known)
        finally:
            db.close()


def _make(path: Path, key: bytes | None, clock: Callable[[], float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    name = secrets.token_hex(16)
    keys = Keyring(key or read_key(path) or make_key(path), name)

    def fill(db: sqlite3.Connection) -> None:
        with transaction(db):
            for step in MIGRATIONS:
                step(db)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            write_meta(db, "ledger", name)
            write_meta(db, "check", keys.check)
            History(db, keys, clock).append("ledger made", actor=LEDGER, detail={"ledger": name})

    with plain_errors(path):
        create(path, fill)


def _key_of(path: Path) -> bytes:
    if key := read_key(path):
        return key
    raise LedgerError(
        f"{path}: its key is missing: neither {key_path(path)} nor ${VARIABLE} is there. Without it the texts of the requests cannot be read.\n"
        "Put a copy of the key back. Without a key, `expunge request verify` checks the chain alone."
    )


def _due(db: sqlite3.Connection) -> int | None:
    return db.execute("SELECT min(due) FROM requests WHERE due IS NOT NULL").fetchone()[0]
