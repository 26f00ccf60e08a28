"""Keys of those who may ask the gateway: shown once, kept as a digest."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from expunge.errors import ConfigError, did_you_mean

PREFIX = "exp"
SCOPES = {
    "infer": "ask the model",
    "requests:read": "read its tenant's removal requests",
    "requests:write": "add, change and withdraw them",
    "audit": "read the history and the evidence",
    "logprobs": "get log-probabilities",
    "admin": "everything, and what the guard decided",
}


class NewKey(NamedTuple):
    id: str
    text: str
    """What its holder presents."""
    digest: str


@dataclass(frozen=True)
class AccessKey:
    id: str
    name: str
    tenant: str
    """Empty: of no tenant."""
    scopes: frozenset[str]
    digest: str
    """SHA-256 of the key, in hexadecimal: 256 random bits need no slow hash."""
    rpm: int | None
    """Requests a minute; None: as the server says."""
    tpm: int | None
    """Tokens a minute; None: as the server says."""
    created: datetime
    expires: datetime | None
    revoked: datetime | None

    def matches(self, presented: str) -> bool:
        """Whether this is the key, and still good. Takes the same time whatever is presented."""
        same = hmac.compare_digest(digest_of(presented), self.digest)
        good = self.revoked is None and (self.expires is None or time.time() < self.expires.timestamp())
        return same and good

    def describe(self) -> dict[str, object]:
        """As plain values, without what could be tried against the digest."""
        times = {name: getattr(self, name) for name in ("created", "expires", "revoked")}
        return {
            **{name: getattr(self, name) for name in ("id", "name", "tenant", "rpm", "tpm")},
            "scopes": sorted(self.scopes),
            **{name: at and at.isoformat() for name, at in times.items()},
        }


def new_key() -> NewKey:
    key_id = secrets.token_hex(6)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    return NewKey(key_id, text, digest_of(text))


def key_id(presented: str) -> str | None:
    """The id within a key; None where it is none of ours."""
    prefix, _, rest = presented.partition("_")
    found, parted, secret = rest.partition("_")
    return found if prefix == PREFIX and parted and found and secret else None


def digest_of(presented: str) -> str:
    return hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()


def refuse_unknown_scopes(scopes: frozenset[str]) -> None:
    """Raises ConfigError."""
    if not scopes:
        raise ConfigError(f"a key without scopes opens nothing. Scopes: {', '.join(SCOPES)}.")
    for scope in sorted(scopes - set(SCOPES)):
        raise ConfigError(
            f"unknown scope '{scope}'.{did_you_mean(scope, SCOPES)} Scopes: {', '.join(SCOPES)}."
        )
