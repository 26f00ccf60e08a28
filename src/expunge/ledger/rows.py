"""Requests as rows of the ledger's tables: what is in the clear, what is sealed, and the digest that the history holds of each."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from expunge.ledger.access import AccessKey
from expunge.ledger.history import digest_of, moment, stamp
from expunge.ledger.requests import KEPT, Artifact, Entry, Evidence, LedgerError, RemovalRequest, Status
from expunge.ledger.sealing import Keyring, Sealed, canonical
from expunge.types import Scope

COLUMNS = (
    "number", "id", "tenant", "version", "status", "epoch", "created", "effective", "expires", "scope", "action", "method",
    "content", "idempotency", "sealed", "due",
)  # fmt: skip
SELECT = f"SELECT {', '.join('r.' + name for name in COLUMNS)}, k.wrapped FROM requests r LEFT JOIN request_keys k ON k.request = r.id "
"""Rows of `Stored`, but for the last but one column, which follows from others."""
Attached = dict[tuple[str, int], list[Any]]
"""By request and version."""


@dataclass(frozen=True)
class Stored:
    """One row of `requests`, with its key."""

    number: int
    """In the order of arrival."""
    id: str
    tenant: str
    version: int
    status: Status
    epoch: int
    created: int
    effective: int | None
    expires: int | None
    scope: str
    action: str
    """Its name; settings are sealed."""
    method: str
    content: str | None
    """Keyed digest, to tell whether another request is the same."""
    idempotency: str | None
    sealed: bytes | None
    due: int | None
    """When its status changes by itself."""
    wrapped: bytes | None

    @classmethod
    def of(
        cls, request: RemovalRequest, keys: Keyring, now: int, *, number: int, version: int, created: int, idempotency: str | None
    ) -> Stored:  # fmt: skip
        """A request as it is written at `now`."""
        effective, expires = stamp(request.effective), stamp(request.expires)
        pending = effective is not None and effective > now
        sealed = keys.seal(request.model_dump(mode="json"), request.id, version)
        return cls(
            number, request.id, request.tenant, version, "pending" if pending else "active", 0, created, effective, expires,
            _scope(request), request.action_name, request.method, content_digest(request, keys), idempotency, sealed.body,
            effective if pending else expires, sealed.key,
        )  # fmt: skip

    @property
    def live(self) -> bool:
        """Whether its texts are still there."""
        return self.status in ("pending", "active")

    def begun(self) -> Stored:
        return replace(self, status="active", due=self.expires)

    def ended(self, status: Status) -> Stored:
        """Without its texts, its key and what could be compared with a guess of them."""
        return replace(self, status=status, content=None, sealed=None, due=None, wrapped=None)

    def digest(self) -> str:
        open_values = [getattr(self, name) for name in COLUMNS if name not in ("epoch", "sealed")]
        hidden = [part and hashlib.sha256(part).hexdigest() for part in (self.sealed, self.wrapped)]
        return digest_of([*open_values, *hidden])

    def save(self, db: sqlite3.Connection, epoch: int) -> None:
        """`epoch`: number of the row of the history that says so."""
        values = [epoch if name == "epoch" else getattr(self, name) for name in COLUMNS]
        marks, changes = (
            ", ".join("?" * len(COLUMNS)),
            ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[2:]),
        )
        db.execute(
            f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {changes}",
            values,
        )
        if self.wrapped is None:
            db.execute("DELETE FROM request_keys WHERE request = ?", (self.id,))
        else:
            db.execute(
                "INSERT INTO request_keys VALUES (?, ?) ON CONFLICT (request) DO UPDATE SET wrapped = excluded.wrapped",
                (self.id, self.wrapped),
            )

    def request(self, keys: Keyring | None) -> RemovalRequest | None:
        """Opened; None once it is gone, or without keys. Raises LedgerError where it does not open, or the row says otherwise than the sealed texts."""
        if keys is None or not self.live:
            return None
        values = keys.unseal(Sealed(self.sealed or b"", self.wrapped or b""), self.id, self.version)
        try:
            request = RemovalRequest.model_validate(values, context=KEPT)
        except ValidationError as error:
            why = RemovalRequest._explain(error, f"request '{self.id}' cannot be read by this version")
            raise LedgerError(why) from None
        bounds = [stamp(request.effective), stamp(request.expires)]
        sealed = [request.id, request.tenant, _scope(request), request.action_name, request.method, *bounds]
        if sealed != [
            self.id,
            self.tenant,
            self.scope,
            self.action,
            self.method,
            self.effective,
            self.expires,
        ]:
            raise LedgerError(
                f"request '{self.id}': its row was changed behind the ledger's back. Run `expunge request verify`."
            )
        return request

    def entry(self, keys: Keyring | None, artifacts: Attached, evidence: Attached) -> Entry:
        request = self.request(keys)
        here = self.id, self.version
        return Entry(
            self.id, self.tenant, self.version, self.status, self.epoch, moment(self.created), *(
                at if at is None else moment(at) for at in (self.effective, self.expires)
            ),
            Scope(**json.loads(self.scope)), request.action if request else self.action, self.method, request,
            tuple(artifacts.get(here, ())), tuple(evidence.get(here, ())),
        )  # fmt: skip


def content_digest(request: RemovalRequest, keys: Keyring) -> str:
    """Keyed, over everything but the id."""
    return keys.digest("content", canonical(request.model_dump(mode="json", exclude={"id"})))


def stored(db: sqlite3.Connection, where: str, values: tuple[Any, ...] = ()) -> list[Stored]:
    return [Stored(*row) for row in db.execute(SELECT + where, values).fetchall()]


def artifacts(db: sqlite3.Connection, request: str | None) -> Attached:
    found: Attached = {}
    for about, version, at, folder, sha256, recipe in _attached(
        db, "artifacts", "folder, sha256, recipe", request
    ):
        made = Artifact(folder=folder, sha256=sha256, recipe=recipe, recorded=moment(at))
        found.setdefault((about, version), []).append(made)
    return found


def evidence(db: sqlite3.Connection, request: str | None) -> Attached:
    found: Attached = {}
    for about, version, at, kind, digest, summary, path in _attached(
        db, "evidence", "kind, sha256, summary, path", request
    ):
        measured = Evidence(
            kind=kind, digest=digest, summary=json.loads(summary), path=path, recorded=moment(at)
        )
        found.setdefault((about, version), []).append(measured)
    return found


def _attached(db: sqlite3.Connection, table: str, columns: str, request: str | None) -> list[tuple[Any, ...]]:
    return db.execute(
        f"SELECT t.request, t.version, h.at, {columns} FROM {table} t JOIN history h USING (seq)"
        + (" WHERE t.request = ?" if request is not None else "")
        + " ORDER BY seq",
        () if request is None else (request,),
    ).fetchall()


KEY_COLUMNS = "id, name, tenant, scopes, sha256, rpm, tpm, created, expires, revoked"


def access_key(row: tuple[Any, ...]) -> AccessKey:
    key_id, name, tenant, scopes, digest, rpm, tpm, created, expires, revoked = row
    times = (at if at is None else moment(at) for at in (expires, revoked))
    return AccessKey(
        key_id, name, tenant, frozenset(scopes.split()), digest, rpm, tpm, moment(created), *times
    )


def held(db: sqlite3.Connection) -> Iterator[tuple[str, str, str, int | None]]:
    """Kind, name, digest and epoch of each object in the tables, for comparison with the history."""
    for row in db.execute(SELECT):
        request = Stored(*row)
        yield "request", request.id, request.digest(), request.epoch
    for table, kind in (("artifacts", "artifact"), ("evidence", "evidence")):
        for row in db.execute(f"SELECT * FROM {table}"):
            yield kind, str(row[0]), digest_of(row[1:]), None
    for row in db.execute(f"SELECT {KEY_COLUMNS} FROM access_keys"):
        yield "key", row[0], digest_of(row), None
    lost = db.execute(
        "SELECT request FROM request_keys WHERE request NOT IN (SELECT id FROM requests)"
    ).fetchone()
    if lost:
        yield "key of request", lost[0], "", None


def _scope(request: RemovalRequest) -> str:
    return canonical({name: getattr(request.scope, name) for name in Scope.__dataclass_fields__})
