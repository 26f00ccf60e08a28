"""The ledger's keys: one master key, what is derived from it, and the envelope around each request's texts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.ledger.requests import LedgerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "EXPUNGE_LEDGER_KEY"
SIZE, NONCE = 32, 12
"""Bytes of a key (AES-256) and of a nonce (AES-GCM)."""


class Sealed(NamedTuple):
    body: bytes
    """The texts under the request's own key."""
    key: bytes
    """That key under the master key."""


class Keyring:
    """Keys for wrapping, for signing the history and for digests, by HKDF-SHA256 from the master key, bound to one ledger."""

    def __init__(self, master: bytes, ledger: str):
        if len(master) != SIZE:
            raise LedgerError(f"the ledger's key has {len(master)} bytes; it takes {SIZE}.")
        self._master, self._ledger = master, ledger

    def sign(self, message: bytes) -> str:
        """HMAC-SHA256 of a row of the history, in hexadecimal."""
        return hmac.new(self._signing, message, hashlib.sha256).hexdigest()

    def digest(self, *parts: str) -> str:
        """HMAC-SHA256 of texts: tells whether two are the same, to nobody without the key."""
        return hmac.new(self._digesting, canonical(parts).encode(), hashlib.sha256).hexdigest()

    @property
    def check(self) -> str:
        """What tells this key from another."""
        return self.digest("the key of this ledger")

    def seal(self, content: Any, request: str, version: int) -> Sealed:
        """Plain values under a new random key of their own."""
        own, bound = secrets.token_bytes(SIZE), self._bound(request, version)
        body = _encrypt(_cipher(own), canonical(content).encode(), bound)
        return Sealed(body, _encrypt(self._wrapping, own, bound))

    def unseal(self, sealed: Sealed, request: str, version: int) -> Any:
        """Raises LedgerError where a bit was changed, or the envelope is another request's."""
        from cryptography.exceptions import InvalidTag

        bound = self._bound(request, version)
        try:
            own = _decrypt(self._wrapping, sealed.key, bound)
            return json.loads(_decrypt(_cipher(own), sealed.body, bound))
        except (InvalidTag, ValueError):
            raise LedgerError(
                f"request '{request}': its texts do not open with the ledger's key, so they were changed behind the ledger's back.\n"
                "Run `expunge request verify`, and put a copy of the ledger back."
            ) from None

    def _bound(self, request: str, version: int) -> bytes:
        return canonical([self._ledger, request, version]).encode()

    def _derived(self, use: str) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(SHA256(), SIZE, self._ledger.encode(), f"expunge ledger {use}".encode()).derive(
            self._master
        )

    @cached_property
    def _wrapping(self) -> AESGCM:
        return _cipher(self._derived("wrap"))

    @cached_property
    def _signing(self) -> bytes:
        return self._derived("sign")

    @cached_property
    def _digesting(self) -> bytes:
        return self._derived("digest")


def canonical(content: Any) -> str:
    """JSON with one spelling for each value."""
    return _WRITER.encode(content)


_WRITER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_path(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".key")


def read_key(ledger: Path) -> bytes | None:
    """The master key: of $EXPUNGE_LEDGER_KEY, else of the file beside the ledger; None where there is neither. Raises LedgerError."""
    if given := os.environ.get(VARIABLE):
        return _decoded(given, f"${VARIABLE}")
    path = key_path(ledger)
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise LedgerError(
                f"{path}: others than its owner may read the ledger's key. Run:  chmod 600 {path}"
            )
        return _decoded(path.read_text(encoding="ascii"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"{path}: the ledger's key cannot be read: {error}.") from None


def make_key(ledger: Path) -> bytes:
    """A new master key in the file beside the ledger, readable by its owner alone; whoever came first wins."""
    path = key_path(ledger)
    new = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(SIZE)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        put_in_place(new, path)
    except OSError as error:
        raise LedgerError(f"{path}: the ledger's key cannot be written: {error}.") from None
    found = read_key(ledger)
    assert found is not None
    return found


def put_in_place(new: Path, path: Path) -> bool:
    """Give a whole file its name, unless somebody else's stands there; durable when this returns. Whether it was ours."""
    try:
        os.link(new, path)
        ours = True
    except FileExistsError:
        ours = False
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return ours


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != SIZE:
        raise LedgerError(f"{where}: is no ledger key. It takes {SIZE} bytes in base64.")
    return key


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _encrypt(cipher: AESGCM, text: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(NONCE)
    return nonce + cipher.encrypt(nonce, text, bound)


def _decrypt(cipher: AESGCM, sealed: bytes, bound: bytes) -> bytes:
    return cipher.decrypt(sealed[:NONCE], sealed[NONCE:], bound)
