"""What stands before every route: who asks, how long a body may be and take, and how long a client may take nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect

from expunge.serve.auth import Doorkeeper
from expunge.serve.settings import ServeSettings
from expunge.serve.telemetry import Telemetry
from expunge.serve.wire_errors import ApiError, busy, trace

log = logging.getLogger("expunge.serve")
OPEN = ("/health", "/console", "/docs", "/openapi.json")
"""Needs no key: pages without data, and whether the server is up."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
LOOPBACK = (b"127.0.0.1", b"localhost", b"[::1]")
"""Where no key is asked for, a page from elsewhere must not reach the server under a name of its own (DNS rebinding)."""
BODIES = ("POST", "PUT", "PATCH")


class ClientStalledError(Exception):
    """The client takes nothing of its answer."""


class Door:
    """ASGI. Puts `access` into the request's state. Whatever breaks behind it becomes an error in OpenAI's shape."""

    def __init__(self, app: Any, doorkeeper: Doorkeeper, settings: ServeSettings, telemetry: Telemetry):
        self.app, self.doorkeeper, self.settings, self.telemetry = app, doorkeeper, settings, telemetry

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            try:
                async with asyncio.timeout(self.settings.write_seconds):
                    await send(message)
            except TimeoutError:
                raise ClientStalledError from None

        error: ApiError | None = None
        try:
            self._admit(scope)
            if scope["method"] in BODIES:
                receive = await self._body(scope, receive)
            await self.app(scope, receive, sending)
        except ApiError as found:
            error = found
        except ClientDisconnect:
            self.telemetry.gone.labels("left").inc()
        except ClientStalledError:
            self.telemetry.gone.labels("stalled").inc()
        except Exception as found:
            log.error("%s %s: %s", scope["method"], _route(scope), trace(found))
            error = ApiError(500, "The server made a mistake. It is in the server's log.", "internal_error")
        if error is not None and not status:
            await _tell(error, sending)
        self.telemetry.http.labels(_route(scope), str(status or 499)).inc()

    def _admit(self, scope: Any) -> None:
        """Raises ApiError for a key that opens nothing."""
        path = scope["path"]
        if any(path == free or path.startswith(free + "/") for free in OPEN):
            return
        if self.settings.no_auth and _header(scope, b"host").rpartition(b":")[0] not in LOOPBACK:
            raise ApiError(
                403, "A server without keys answers to this machine's own names alone.", "wrong_host"
            )
        header = _header(scope, b"authorization")
        try:
            access = self.doorkeeper.admit(header.decode("latin-1"))
        except Exception as error:
            log.error("the ledger's keys cannot be read: %s", trace(error))
            raise busy("Keys cannot be checked now.", "keys_unavailable", 5) from None
        if access is None:
            raise ApiError(
                401,
                "No valid API key was given. Send it as 'Authorization: Bearer exp_...'.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {})["access"] = access

    async def _body(self, scope: Any, receive: Any) -> Callable[[], Any]:
        """The whole body first, then whatever comes after it. Raises ApiError for one that is too long or too slow."""
        most = self.settings.body_bytes
        too_long = ApiError(
            413, f"The body is longer than {most} bytes.", "body_too_large", headers={"Connection": "close"}
        )
        told = _header(scope, b"content-length")
        if told.isdigit() and int(told) > most:
            raise too_long
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > most:
                        raise too_long
        except TimeoutError:
            raise ApiError(
                408, "The body came too slowly.", "body_too_slow", headers={"Connection": "close"}
            ) from None
        body = b"".join(parts)
        _refuse_broken_text(body)
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return waiting.pop() if waiting else await receive()

        return replay


async def _tell(error: ApiError, send: Any) -> None:
    content = json.dumps(error.describe()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        **error.headers,
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def _refuse_broken_text(body: bytes) -> None:
    """Raises ApiError for what is not UTF-8, and for half a character, which no text can hold."""
    try:
        if "\0" in body.decode():  # as UTF-16 and UTF-32 have it, and JSON never
            raise ValueError
    except ValueError:
        raise ApiError(400, "The body is no JSON in UTF-8.", "invalid_json") from None
    if not _SURROGATE.search(body):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "The body holds half a character (a lone surrogate).", "invalid_json") from None
    except (ValueError, RecursionError):
        return  # no JSON: whoever reads it says so


def _header(scope: Any, name: bytes) -> bytes:
    return next((value for found, value in scope["headers"] if found == name), b"")


def _route(scope: Any) -> str:
    """The route's pattern, never what a client put into it."""
    return getattr(scope.get("route"), "path", "none")
