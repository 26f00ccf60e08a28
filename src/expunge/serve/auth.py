"""Who asks: keys of the ledger, and what each may do."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from expunge.ledger.access import PREFIX, SCOPES, digest_of, key_id

REMEMBERED = 4_096
"""Keys at hand; beyond them all are forgotten."""


class Access(NamedTuple):
    """What a client may do, once its key was seen."""

    id: str
    name: str
    tenant: str
    """Empty: not bound to one."""
    scopes: frozenset[str]
    rpm: int | None = None
    tpm: int | None = None

    def may(self, *scopes: str) -> bool:
        """Whether it has one of these; administrators may do everything."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)


EVERYBODY = Access("", "everybody", "", frozenset(SCOPES))
"""Whoever asks a server that needs no key."""


class Doorkeeper:
    """Safe to use from several threads."""

    def __init__(self, ledger: Any, *, no_auth: bool = False, clock: Callable[[], float] = time.time):
        self._ledger, self._no_auth, self._clock = ledger, no_auth, clock
        self._keys: dict[str, Any] = {}
        self._seen: Any = None
        self._latest = 0.0
        """The latest time that was seen: a clock that goes back brings no key back."""
        self._lock = threading.Lock()
        self._own: dict[str, Access] = {}
        """Keys of the server's own checks by their digest; they are in no ledger and gone with the process."""

    def own_key(self, name: str) -> str:
        """A key that may ask for answers, for this process alone."""
        key = f"{PREFIX}_{name}_{secrets.token_urlsafe(32)}"
        self._own[digest_of(key)] = Access(f"own-{name}", name, "", frozenset({"infer"}))
        return key

    def admit(self, header: str) -> Access | None:
        """Who sends this Authorization header; None where nobody known does. A key that is unknown costs what a wrong one costs.

        Raises what the ledger raises where it cannot be read.
        """
        if self._no_auth:
            return EVERYBODY
        scheme, _, presented = header.partition(" ")
        presented = presented.strip()
        found = key_id(presented)
        if scheme.lower() != "bearer" or found is None or len(presented) > 256:
            return None
        if own := self._own.get(digest_of(presented)):
            return own
        key = self._find(found)
        if key is None:
            secrets.compare_digest(digest_of(presented), "0" * 64)
            return None
        if not key.matches(presented) or self._over(key):
            return None
        return Access(key.id, key.name, key.tenant, frozenset(key.scopes), key.rpm, key.tpm)

    def _over(self, key: Any) -> bool:
        self._latest = max(self._latest, self._clock())
        return key.expires is not None and key.expires.timestamp() <= self._latest

    def _find(self, key_id: str) -> Any:
        version = self._ledger.data_version()
        with self._lock:
            if version != self._seen or len(self._keys) >= REMEMBERED:
                self._keys, self._seen = {}, version
            keys = self._keys
        if key_id not in keys:
            found = self._ledger.find_key(key_id)
            if found is None:
                return None
            keys[key_id] = found
        return keys[key_id]
