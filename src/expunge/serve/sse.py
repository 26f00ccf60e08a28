"""Answers on the wire: server-sent events with signs of life, and work that ends when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from expunge.serve.wire_errors import ApiError

_T = TypeVar("_T")
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(content: Any) -> bytes:
    return b"data: " + _JSON.encode(content).encode() + b"\n\n"


_JSON = json.JSONEncoder(separators=(",", ":"))


async def gone(receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Callable[[], Awaitable[Any]], work: Awaitable[_T]) -> _T:
    """The work's result; a client that leaves ends it. Raises ClientDisconnect then."""
    task = asyncio.ensure_future(work)
    watching = asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _end(task, watching)


class EventStream(Response):
    """Sends `events` as they come. An ApiError in their midst is the last event; `seconds` without any bring a ping."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        *,
        headers: Mapping[str, str],
        ping: float,
        seconds: float,
        late: ApiError,
        close: Callable[[], None],
        left: Callable[[], None],
    ):
        """`late` is the last event where all takes more than `seconds`. `close` is called in the end, `left` before it where the client
        left early.
        """
        self.status_code, self.background = 200, None
        self._events, self._ping, self._close, self._left = events, ping, close, left
        self._seconds, self._late = seconds, late
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        writing = asyncio.create_task(self._write(send))
        pinging = asyncio.create_task(self._keep_alive(send))
        watching = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait(
                {writing, watching}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if writing.done():
                writing.result()
            elif watching.done():
                self._left()
            else:
                await _end(writing, pinging)
                await self._send(send, event(self._late.describe()))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await _end(writing, pinging, watching)
            self._close()

    async def _write(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            try:
                async for chunk in events:
                    await self._send(send, chunk)
            except ApiError as error:
                await self._send(send, event(error.describe()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Any, chunk: bytes) -> None:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._sent_at = asyncio.get_running_loop().time()

    async def _keep_alive(self, send: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._sent_at + self._ping - loop.time()))
            if loop.time() >= self._sent_at + self._ping:
                await self._send(send, PING)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
