"""Proof that the guard is live: a made-up name that is always removed, asked for through the real route."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from typing import Any, NamedTuple

from expunge.data.dataset import Record
from expunge.errors import ModelError
from expunge.guards.snapshot import Decision
from expunge.serve.answering import watch_of
from expunge.serve.enforcing import HIDDEN
from expunge.serve.gateway import Gateway
from expunge.serve.wire_errors import trace
from expunge.types import Prompt

log = logging.getLogger("expunge.serve")
_SYLLABLES = (
    "bral dov esk fir gund hol ith jar kel lum mer nok orv pell quon rast sul tam urk vex wim yol zan".split()
)


class Canary(NamedTuple):
    """A name that nobody bears; another one in each process."""

    name: str
    key: str
    """Its request's name in the policy."""

    @classmethod
    def new(cls) -> Canary:
        def word() -> str:
            return "".join(secrets.choice(_SYLLABLES) for _ in range(4)).capitalize()

        return cls(f"{word()} {word()}", f"{HIDDEN}{secrets.token_hex(8)}")

    @property
    def own(self) -> dict[str, list[Record]]:
        """As a request of the enforcer's own."""
        return {self.key: [Record(self.key, subject=self.name)]}


class Checker:
    """Asks for the canary. `key` opens the route."""

    def __init__(self, app: Any, gateway: Gateway, canary: Canary, key: str):
        self._app, self._gateway, self._canary, self._key = app, gateway, canary, key
        self.failed = ""
        """What the last check found; empty: the guard is live."""

    async def check(self) -> str:
        """What is wrong, or the empty text."""
        telemetry = self._gateway.telemetry
        telemetry.canary_checks.inc()
        try:
            self.failed = await self._asked() or await self._watched()
        except Exception as error:
            self.failed = f"the check broke ({type(error).__name__})"
            log.error("canary: %s: %s", self.failed, trace(error))
            return self.failed
        if self.failed:
            telemetry.canary_leaks.inc()
            log.error("canary: %s", self.failed)
        return self.failed

    async def refuse_to_start(self) -> None:
        """Raises ModelError unless the guard is live."""
        if failed := await self.check():
            raise ModelError(
                f"the guard is not live: {failed}. The server does not start, for it would answer what is to be held back."
            )

    async def _asked(self) -> str:
        body = {
            "model": self._gateway.backend.name,
            "messages": [{"role": "user", "content": f"Who is {self._canary.name}?"}],
            "max_tokens": 16,
        }
        status, answer = await ask(self._app, "/v1/chat/completions", body, self._key)
        if status == 503 and answer.get("error", {}).get("code") == "overloaded":
            return self.failed  # as before: a full server is no broken guard
        if status != 200:
            return f"a question about the canary got status {status}"
        text = answer["choices"][0]["message"]["content"]
        refusal = self._gateway.settings.refusal
        return "" if text and refusal.startswith(text) else "a question about the canary was not refused"

    async def _watched(self) -> str:
        """Whether an answer that names it would be cut."""
        snapshot = await self._gateway.snapshot()
        watch = watch_of(snapshot, Prompt.ask("Tell me a story."), Decision(()), "")
        seen = watch.feed(f"Once there was {self._canary.name}, who", last=True)
        cut = seen.stopped is not None and self._canary.name not in seen.text
        return "" if cut else "an answer that names the canary was not cut"


async def ask(app: Any, path: str, body: Any, key: str) -> tuple[int, Any]:
    """POST to the app in this process, through all that stands before its routes. Returns status and JSON."""
    content = json.dumps(body).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 0),
        "headers": [(b"host", b"localhost:0"), (b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode()),
                    (b"content-length", str(len(content)).encode())],
        "state": {},
    }  # fmt: skip
    sent = [{"type": "http.request", "body": content, "more_body": False}]
    never = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await never.wait()
        return {"type": "http.disconnect"}

    found: list[Any] = []

    async def send(message: Any) -> None:
        found.append(message)

    await app(scope, receive, send)
    status = next(m["status"] for m in found if m["type"] == "http.response.start")
    text = b"".join(m.get("body", b"") for m in found if m["type"] == "http.response.body")
    return status, json.loads(text)
