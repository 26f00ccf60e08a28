"""The append-only history: each row carries the hash of the row before it, and a signature.

    hash(row) = SHA-256(hash(row before) || canonical JSON of the row),  mac(row) = HMAC-SHA256(key, hash(row))

The head (number, hash and signature of the last row) is kept beside the rows, so that rows cut off at the end are missed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from expunge.ledger.sealing import Keyring, canonical

SECOND = 1_000_000
"""Times are whole microseconds since 1970."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GENESIS = "0" * 64
"""What stands before the first row."""
FIELDS = ("seq", "at", "actor", "tenant", "event", "request", "detail", "digest", "prev", "hash", "mac")


class Event(NamedTuple):
    """One row."""

    seq: int
    at: datetime
    actor: str
    tenant: str
    event: str
    request: str
    detail: dict[str, Any]
    digest: str
    """SHA-256 of what the ledger held of the object afterwards."""
    hash: str

    def describe(self) -> dict[str, Any]:
        return {**self._asdict(), "at": self.at.isoformat()}


class Verification(NamedTuple):
    ok: bool
    entries: int
    """Rows of the history."""
    head: str
    """Number and hash of the last row. Whoever keeps it elsewhere can tell later that nothing before it was changed."""
    broken_at: int | None
    """First row that is not as it was written; None where all are, or where it is no row."""
    why: str
    signed: bool
    """Whether signatures were checked: that takes the key. Without it, a chain made anew as a whole passes."""

    def describe(self) -> dict[str, Any]:
        return self._asdict()


class Expected(NamedTuple):
    """What the history says of an object now."""

    seq: int
    digest: str


class History:
    """Writes rows within the caller's transaction."""

    def __init__(self, db: sqlite3.Connection, keys: Keyring, clock: Callable[[], float]):
        self._db, self._keys, self._clock = db, keys, clock

    def append(
        self,
        event: str,
        *,
        actor: str,
        tenant: str = "",
        request: str = "",
        detail: dict[str, Any] | None = None,
        digest: str = "",
    ) -> int:
        """The row's number. Raises sqlite3.DatabaseError where the last row is not the one that was written last."""
        last = last_row(self._db)
        if last and _head(self._db) != (last.seq, last.hash):
            raise sqlite3.DatabaseError("its history does not end where it ended")
        wall = microseconds(self._clock())
        at = max(wall, last.at if last else 0)
        behind = {"clock_behind_s": round((at - wall) / SECOND, 3)} if at - wall > SECOND else {}
        row = {
            "seq": last.seq + 1 if last else 1, "at": at, "actor": clean(actor), "tenant": clean(tenant), "event": clean(event),
            "request": clean(request),
            "detail": canonical({**(detail or {}), **behind}), "digest": digest, "prev": last.hash if last else GENESIS,
        }  # fmt: skip
        found = row_hash(row)
        mac = self._keys.sign(found.encode())
        marks = ", ".join("?" * len(FIELDS))
        self._db.execute(f"INSERT INTO history VALUES ({marks})", (*row.values(), found, mac))
        write_meta(self._db, "head", f"{row['seq']}:{found}:{mac}")
        return row["seq"]


class Last(NamedTuple):
    seq: int
    at: int
    hash: str


def last_row(db: sqlite3.Connection) -> Last | None:
    row = db.execute("SELECT seq, at, hash FROM history ORDER BY seq DESC LIMIT 1").fetchone()
    return Last(*row) if row else None


def now(db: sqlite3.Connection, clock: Callable[[], float]) -> int:
    """The ledger's time, microseconds: the clock's, but never before the last row's."""
    last = last_row(db)
    return max(microseconds(clock()), last.at if last else 0)


def events(db: sqlite3.Connection, since: int, request: str | None, limit: int | None) -> list[Event]:
    rows = db.execute(
        "SELECT seq, at, actor, tenant, event, request, detail, digest, hash FROM history WHERE seq > ? "
        + ("AND request = ? " if request is not None else "")
        + "ORDER BY seq LIMIT ?",
        (since, *((request,) if request is not None else ()), -1 if limit is None else limit),
    ).fetchall()
    return [
        Event(seq, moment(at), actor, tenant, event, about, json.loads(detail), digest, found)
        for seq, at, actor, tenant, event, about, detail, digest, found in rows
    ]


def read_meta(db: sqlite3.Connection, name: str) -> str:
    row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row else ""


def write_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


# --- verifying ----------------------------------------------------------------------------------------------------------------
def verify(
    db: sqlite3.Connection,
    keys: Keyring | None,
    held: Callable[[sqlite3.Connection], Iterator[tuple[str, str, str, int | None]]],
    known: str = "",
) -> Verification:
    """Recompute the chain, then compare what the ledger holds now. `held`: kind, name, digest and epoch of each object; `known`: a
    head that was noted earlier. The connection is in a transaction, so that all is of one moment.
    """
    state = _State()
    try:
        for values in db.execute(f"SELECT {', '.join(FIELDS)} FROM history ORDER BY seq"):
            _check_row(dict(zip(FIELDS, values, strict=True)), state, keys, known)
        _check_marks(db, state, keys, known)
        _check_objects(held(db), state)
    except _BrokenError as found:
        why, at = found.args
        return Verification(False, state.count, state.head, at, why, keys is not None)
    why = "" if keys else "the chain holds; signatures were not checked, that takes the ledger's key"
    return Verification(True, state.count, state.head, None, why, keys is not None)


class _BrokenError(Exception):
    """Why, and the first row that is broken."""


@dataclass
class _State:
    """What is known after the rows so far."""

    count: int = 0
    hash: str = GENESIS
    at: int = 0
    first_detail: str = ""
    noted: str = ""
    """Hash of the row whose number was noted."""
    expected: dict[tuple[str, str], Expected] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return f"{self.count}:{self.hash}"


def _check_row(row: dict[str, Any], state: _State, keys: Keyring | None, known: str) -> None:
    seq, found, mac = row["seq"], row.pop("hash"), row.pop("mac")
    if seq != state.count + 1:
        raise _BrokenError(f"row {state.count + 1} is missing", state.count + 1)
    if row["prev"] != state.hash:
        raise _BrokenError(f"row {seq} does not follow the row before it", seq)
    if row_hash(row) != found:
        raise _BrokenError(f"row {seq} is not as it was written", seq)
    if keys and not _same(keys.sign(found.encode()), mac):
        raise _BrokenError(f"row {seq} was not signed with this ledger's key", seq)
    if row["at"] < state.at:
        raise _BrokenError(f"row {seq} is earlier than the row before it", seq)
    if key := _object(row):
        state.expected[key] = Expected(seq, row["digest"])
    state.first_detail = state.first_detail or row["detail"]
    state.hash, state.at, state.count = found, row["at"], seq
    if seq == _number(known):
        state.noted = found


def _check_marks(db: sqlite3.Connection, state: _State, keys: Keyring | None, known: str) -> None:
    """What the ledger says of itself beside the rows."""
    if not state.count:
        raise _BrokenError("the history has no rows", 1)
    seq, _, rest = read_meta(db, "head").partition(":")
    found, _, mac = rest.partition(":")
    if (seq, found) != (str(state.count), state.hash):
        raise _BrokenError(
            f"the history ends at row {state.count}, and the ledger's head is row {seq if seq.isdecimal() else '?'}",
            state.count + 1,
        )
    if keys and not _same(keys.sign(found.encode()), mac):
        raise _BrokenError("the ledger's head was not signed with this ledger's key", state.count)
    if canonical({"ledger": read_meta(db, "ledger")}) != state.first_detail:
        raise _BrokenError("the ledger's own id is not that of its first row", 1)
    if keys and read_meta(db, "check") != keys.check:
        raise _BrokenError("the mark of the ledger's key is not this key's", None)
    if known and state.noted != known.partition(":")[2]:
        raise _BrokenError(f"the head that was noted ({known}) is not in this history", None)


def _check_objects(held: Iterator[tuple[str, str, str, int | None]], state: _State) -> None:
    """What the tables hold now, against the last row of the history that tells of it."""
    left = dict(state.expected)
    for kind, name, digest, epoch in held:
        wanted = left.pop((kind, name), None)
        if wanted is None:
            raise _BrokenError(
                f"{kind} '{name}' stands in the ledger, and no row of the history says so", None
            )
        if digest != wanted.digest or epoch not in (None, wanted.seq):
            raise _BrokenError(f"{kind} '{name}' is not as row {wanted.seq} of the history says", wanted.seq)
    if left:
        (kind, name), wanted = min(left.items(), key=lambda item: item[1].seq)
        raise _BrokenError(
            f"{kind} '{name}' is missing from the ledger, and row {wanted.seq} of the history tells of it",
            wanted.seq,
        )


def _same(mac: str, found: str) -> bool:
    return hmac.compare_digest(mac.encode(), found.encode(errors="replace"))


def _object(row: dict[str, Any]) -> tuple[str, str] | None:
    """Kind and name of what a row of the history describes."""
    event = row["event"]
    if event in ("artifact", "evidence"):
        return event, str(row["seq"])
    if event in ("key added", "key revoked"):
        return "key", json.loads(row["detail"])["key"]
    return ("request", row["request"]) if row["digest"] else None


def row_hash(row: dict[str, Any]) -> str:
    """Over all fields but hash and signature."""
    return hashlib.sha256(bytes.fromhex(row["prev"]) + canonical(row).encode()).hexdigest()


def digest_of(values: Any) -> str:
    """SHA-256 of what the ledger holds of an object."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def microseconds(seconds: float) -> int:
    return math.floor(seconds * SECOND)


def stamp(at: datetime | None) -> int | None:
    """Microseconds since 1970, exactly."""
    return None if at is None else (at - EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    return EPOCH + timedelta(microseconds=at)


def _head(db: sqlite3.Connection) -> tuple[int, str]:
    seq, _, rest = read_meta(db, "head").partition(":")
    return _number(seq), rest.partition(":")[0]


def _number(text: str) -> int:
    found = text.partition(":")[0]
    return int(found) if found.isdecimal() else -1


def clean(text: str) -> str:
    """Text that UTF-8 has."""
    return text.encode("utf-8", "replace").decode()
