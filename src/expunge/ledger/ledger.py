"""The ledger: one SQLite file that several threads and processes may use at once."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from expunge.errors import DataError
from expunge.ledger import rows
from expunge.ledger.history import clean, digest_of, now, stamp
from expunge.ledger.key_store import KeyStore
from expunge.ledger.requests import Entry, RemovalRequest, Status
from expunge.ledger.rows import Stored, content_digest, stored
from expunge.ledger.sealing import canonical

Entries = list[Entry]


class Added(NamedTuple):
    """Ids of many requests."""

    new: tuple[str, ...]
    known: tuple[str, ...]
    """There before, with the same content."""
    gone: tuple[str, ...]
    """There before, and withdrawn or expired since; they stay so."""


class Ledger(KeyStore):
    """Removal requests, what was made and measured for them, and the keys of those who may ask."""

    # --- requests ---------------------------------------------------------------------------------------------------------
    def add(self, request: RemovalRequest, *, actor: str, idempotency: str = "") -> Entry:
        """The same id (or `idempotency` key) with the same content again gives the entry that is there; with other content it is a
        DataError, as is an id that was withdrawn or has expired.
        """
        with self._writing() as db:
            added = self._add(db, request, actor, idempotency)
        return self.show(added)

    def add_all(self, requests: Iterable[tuple[str, RemovalRequest]], *, actor: str) -> Added:
        """Requests, each with where it comes from (for messages): all or none."""
        new, known, gone = [], [], []
        with self._writing() as db:
            for where, request in requests:
                before = _one(db, request.id)
                if before and not before.live:
                    gone.append(before.id)
                    continue
                try:
                    (known if before else new).append(self._add(db, request, actor, ""))
                except DataError as error:
                    raise DataError(f"{where}: {error}") from None
        return Added(tuple(new), tuple(known), tuple(gone))

    def _add(self, db: sqlite3.Connection, request: RemovalRequest, actor: str, idempotency: str) -> str:
        content = content_digest(request, self._keys)
        once = self._keys.digest("idempotency", request.tenant, idempotency) if idempotency else None
        if once and (before := next(iter(stored(db, "WHERE r.idempotency = ?", (once,))), None)):
            if before.live and (before.content != content or request.id not in ("", before.id)):
                raise DataError(
                    "this idempotency key was used with another request. Give each request its own."
                )
            return before.id
        if before := _one(db, request.id):
            if not before.live:
                raise DataError(
                    f"request '{before.id}' is {before.status}; its id cannot be used again. Choose another."
                )
            if before.content != content:
                raise DataError(
                    f"request '{before.id}' is there already, with other content. Change it, or choose another id."
                )
            return before.id
        request = request if request.id else request.model_copy(update={"id": f"r{secrets.token_hex(8)}"})
        at = now(db, self._clock)
        _refuse_past(request, at)
        (number,) = db.execute("SELECT coalesce(max(number), 0) + 1 FROM requests").fetchone()
        made = Stored.of(request, self._keys, at, number=number, version=1, created=at, idempotency=once)
        self._save(db, made, "added", actor, _told(made))
        return request.id

    def name_of(self, request: RemovalRequest) -> str:
        """An id that follows from what is asked: the same request gets the same, and without the ledger's key it tells nothing."""
        return f"c{content_digest(request, self._keys)[:24]}"

    def change(self, id: str, request: RemovalRequest, *, actor: str) -> Entry:
        """A new version in place of the old one, whose texts and key are destroyed. Raises DataError for one that is not live."""
        if request.id not in ("", id):
            raise DataError(f"request '{id}' cannot become '{request.id}': an id is for good.")
        try:
            request = RemovalRequest.model_validate({**dict(request), "id": id})
        except ValidationError as error:
            raise DataError(f"request '{id}': {error.errors()[0]['msg']}.") from None
        with self._writing() as db:
            before = _known(db, id)
            if not before.live:
                raise DataError(f"request '{id}' is {before.status} and cannot be changed. Add a new one.")
            if before.tenant != request.tenant:
                raise DataError(
                    f"request '{id}' is of tenant '{before.tenant}' and cannot become another's. Withdraw it and add a new one."
                )
            if before.content != content_digest(request, self._keys):
                at = now(db, self._clock)
                _refuse_past(request, at)
                made = Stored.of(
                    request, self._keys, at,
                    number=before.number, version=before.version + 1, created=before.created, idempotency=before.idempotency,
                )  # fmt: skip
                self._save(db, made, "changed", actor, _told(made))
                self._traces = True
        return self.show(id)

    def withdraw(self, id: str, *, actor: str, reason: str = "") -> Entry:
        """Destroy the request's key and its texts. `reason` stays readable and may hold no name. One that is gone already stays as it is."""
        with self._writing() as db:
            before = _known(db, id)
            request = before.request(self._keys)
            if request is not None:
                if held := request.held_names(reason):
                    raise DataError(
                        f"the reason holds '{held[0]}', a word of the request's names, and it stays readable for ever. Say it without."
                    )
                self._save(
                    db, before.ended("withdrawn"), "withdrawn", actor, {"reason": reason} if reason else {}
                )
                self._traces = True
        return self.show(id)

    def show(self, id: str, tenant: str | None = None) -> Entry:
        """`tenant`: whose it has to be. Raises DataError where there is none."""
        self._settle()
        with self._reading() as db:
            found = _known(db, id, tenant)
            return found.entry(self._keys, rows.artifacts(db, id), rows.evidence(db, id))

    def list(
        self,
        tenant: str | None = None,
        status: Status | None = None,
        limit: int | None = None,
        after: str = "",
        newest: bool = False,
    ) -> Entries:
        """In the order in which they were added, with `newest` the other way round; `after`: the last id of the page before."""
        self._settle()
        beyond, order = ("<", "DESC") if newest else (">", "ASC")
        with self._reading() as db:
            last = _known(db, after, tenant).number if after else None
        return self._entries(
            f"WHERE (? IS NULL OR r.number {beyond} ?) AND (? IS NULL OR r.tenant = ?) AND (? IS NULL OR r.status = ?) "
            f"ORDER BY r.number {order} LIMIT ?",
            (last, last, tenant, tenant, status, status, -1 if limit is None else limit),
        )

    def active(self) -> Entries:
        """In force now, in the order in which they were added."""
        return self.list(status="active")

    def changes(self, since: int) -> Entries:
        """Entries whose state changed after that epoch, as they are now. Whatever is not active of them is not to be enforced."""
        self._settle()
        return self._entries("WHERE r.epoch > ? ORDER BY r.epoch", (since,))

    # --- what was made and measured -----------------------------------------------------------------------------------------
    def record_artifact(
        self, id: str, folder: str | Path, sha256: str, recipe: str, *, actor: str, version: int | None = None
    ) -> None:
        """What was made for the request's present version (where `version` is given, that has to be the present one). Raises
        DataError for a request that is not live, or a folder with its name.
        """
        facts = {"folder": str(folder), "sha256": sha256, "recipe": recipe}
        self._attach(id, "artifact", "artifacts", facts, f"{Path(folder).name} {recipe}", actor, version)

    def record_evidence(
        self,
        id: str,
        kind: str,
        digest: str,
        summary: dict[str, Any],
        path: str | Path,
        *,
        actor: str,
        version: int | None = None,
    ) -> None:
        """What was measured; `digest`: SHA-256 of the file at `path`. Raises as `record_artifact`."""
        facts = {"kind": kind, "sha256": digest, "summary": canonical(summary), "path": str(path)}
        self._attach(id, "evidence", "evidence", facts, " ".join(facts.values()), actor, version)

    def _attach(
        self,
        id: str,
        event: str,
        table: str,
        facts: dict[str, str],
        readable: str,
        actor: str,
        version: int | None,
    ) -> None:
        with self._writing() as db:
            about = _known(db, id)
            request = about.request(self._keys)
            if request is None:
                raise DataError(f"request '{id}' is {about.status}; nothing is added to it.")
            if version not in (None, about.version):
                raise DataError(
                    f"request '{id}' is at version {about.version}; this is for version {version}."
                )
            if request.holds_name(readable):
                raise DataError(
                    f"request '{id}': the {event} names its subject, and what is recorded stays readable for ever. Give it another name."
                )
            row = [id, about.version, *map(clean, facts.values())]
            detail = {"version": about.version, **facts}
            seq = self._history.append(
                event, actor=actor, tenant=about.tenant, request=id, detail=detail, digest=digest_of(row)
            )
            db.execute(f"INSERT INTO {table} VALUES (?, {', '.join('?' * len(row))})", (seq, *row))

    def _entries(self, where: str, values: tuple[Any, ...]) -> Entries:
        """Opened after the reading: nobody waits for that."""
        with self._reading() as db:
            db.execute("BEGIN")  # rows and what hangs on them are of one moment
            try:
                found = stored(db, where, values)
                only = found[0].id if len(found) == 1 else None
                made, measured = rows.artifacts(db, only), rows.evidence(db, only)
            finally:
                db.execute("COMMIT")
        return [row.entry(self._keys, made, measured) for row in found]


def _one(db: sqlite3.Connection, id: str) -> Stored | None:
    return next(iter(stored(db, "WHERE r.id = ?", (id,))), None) if id else None


def _known(db: sqlite3.Connection, id: str, tenant: str | None = None) -> Stored:
    found = _one(db, id)
    if found is None or tenant not in (None, found.tenant):
        raise DataError(f"there is no request '{id}'.")
    return found


def _refuse_past(request: RemovalRequest, at: int) -> None:
    if request.expires and at >= (stamp(request.expires) or 0):
        raise DataError(f"the request expires at {request.expires.isoformat()}, and that is past.")


def _told(row: Stored) -> dict[str, Any]:
    """What the history says of a request: nothing of what it is about."""
    return {"version": row.version, "action": row.action, "method": row.method}
