"""The access keys of a ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from expunge.errors import DataError, did_you_mean
from expunge.ledger import rows
from expunge.ledger.access import AccessKey, new_key, refuse_unknown_scopes
from expunge.ledger.history import clean, digest_of, now, stamp
from expunge.ledger.requests import in_utc
from expunge.ledger.store import Store


class KeyStore(Store):
    def add_key(
        self,
        tenant: str,
        scopes: Iterable[str],
        *,
        name: str,
        rpm: int | None = None,
        tpm: int | None = None,
        expires: datetime | None = None,
        actor: str,
    ) -> str:
        """The new key; it cannot be shown again. Raises ConfigError for unknown scopes, DataError for a limit below 1."""
        granted = frozenset(scopes)
        refuse_unknown_scopes(granted)
        for limit, most in (("rpm", rpm), ("tpm", tpm)):
            if most is not None and most < 1:
                raise DataError(
                    f"{limit}={most}: a key's limit is at least 1. Without one the server's holds; to shut a key out, revoke it."
                )
        made = new_key()
        until = stamp(expires and in_utc(expires))
        with self._writing() as db:
            at = now(db, self._clock)
            row = (
                made.id,
                clean(name),
                clean(tenant),
                " ".join(sorted(granted)),
                made.digest,
                rpm,
                tpm,
                at,
                until,
                None,
            )
            detail = {"key": made.id, "name": row[1], "scopes": sorted(granted)}
            self._history.append(
                "key added", actor=actor, tenant=tenant, detail=detail, digest=digest_of(row)
            )
            db.execute(
                f"INSERT INTO access_keys ({rows.KEY_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row
            )
        return made.text

    def keys(self) -> Sequence[AccessKey]:
        with self._reading() as db:
            found = db.execute(f"SELECT {rows.KEY_COLUMNS} FROM access_keys ORDER BY created, id").fetchall()
        return [rows.access_key(row) for row in found]

    def revoke_key(self, key_id: str, *, actor: str = "") -> AccessKey:
        """From now on it opens nothing. Raises DataError for one that does not exist; one that is revoked stays so."""
        with self._writing() as db:
            row = _key_row(db, key_id)
            if row is None:
                known = [key for (key,) in db.execute("SELECT id FROM access_keys")]
                raise DataError(f"there is no key '{key_id}'.{did_you_mean(key_id, known)}")
            if row[-1] is None:
                row = (*row[:-1], now(db, self._clock))
                tenant = str(row[2])
                self._history.append(
                    "key revoked", actor=actor, tenant=tenant, detail={"key": key_id}, digest=digest_of(row)
                )
                db.execute("UPDATE access_keys SET revoked = ? WHERE id = ?", (row[-1], key_id))
        return rows.access_key(row)

    def find_key(self, key_id: str) -> AccessKey | None:
        """One that is good still: neither revoked nor expired."""
        with self._reading() as db:
            row = _key_row(db, key_id)
            if (
                row is None
                or row[-1] is not None
                or (row[-2] is not None and row[-2] <= now(db, self._clock))
            ):
                return None
        return rows.access_key(row)


def _key_row(db: sqlite3.Connection, key_id: str) -> tuple[Any, ...] | None:
    return db.execute(f"SELECT {rows.KEY_COLUMNS} FROM access_keys WHERE id = ?", (key_id,)).fetchone()
