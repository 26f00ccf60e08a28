"""A stream of events on a clock that stands still while anybody works: pings where they are due, and nothing after the last event."""

from __future__ import annotations

import asyncio

import pytest

from expunge.serve.sse import PING, EventStream
from expunge.serve.wire_errors import ApiError

LATE = ApiError(503, "too late", "timeout")


class Clock(asyncio.SelectorEventLoop):
    """Its time passes at once, as soon as everybody waits."""

    def __init__(self):
        super().__init__()
        self._now, select = 0.0, self._selector.select

        def passes(timeout):
            self._now += timeout or 0.0
            return select(0)

        self._selector.select = passes

    def time(self):
        return self._now


def sent(events, ping=15.0, seconds=600.0, slow=0.0):
    """What is sent of `events`, each with its time; sending takes `slow` seconds."""
    found = []

    async def send(message):
        assert len(found) < 100, "there is no end to it"
        found.append((asyncio.get_running_loop().time(), message))
        await asyncio.sleep(slow)

    async def stays():
        await asyncio.Event().wait()

    closed = []
    stream = EventStream(
        events, headers={}, ping=ping, seconds=seconds, late=LATE,
        close=lambda: closed.append(True), left=lambda: closed.append("left"),
    )  # fmt: skip
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(stream({}, stays, send))
    assert closed == [True]
    (_, start), *bodies, (_, end) = found
    assert (start["type"], end["body"], end["more_body"]) == ("http.response.start", b"", False)
    return [(round(at, 6), message["body"]) for at, message in bodies]


async def every(seconds, chunks, end=None):
    for number in range(chunks):
        await asyncio.sleep(seconds)
        yield b"%d" % number
    if end:
        raise end


def test_a_ping_comes_only_where_nothing_else_came():
    assert [chunk for _, chunk in sent(every(4, 5), ping=5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert sent(every(12, 1), ping=5) == [(5, PING), (10, PING), (12, b"0")]


def test_the_writing_has_ended_before_it_is_told_that_it_took_too_long():
    ended = []

    async def events():
        try:
            async for chunk in every(4, 100):
                yield chunk
        finally:
            await asyncio.sleep(1)  # the model's work is taken back
            ended.append(asyncio.get_running_loop().time())

    found = sent(events(), ping=3, seconds=10, slow=2)
    assert ended == [11]
    late = [number for number, (_, chunk) in enumerate(found) if b"timeout" in chunk]
    assert late == [len(found) - 1], "nothing comes after it, no ping either"
    assert found[-1][0] >= 11


@pytest.mark.parametrize("slow", [0.0, 2.0])
def test_an_error_in_the_midst_is_the_last_event_of_a_work_that_has_ended(slow):
    ended = []

    async def events():
        try:
            async for chunk in every(1, 3, ApiError(503, "gone", "backend_unavailable")):
                yield chunk
        finally:
            ended.append(True)

    *chunks, (_, last) = sent(events(), slow=slow)
    assert [chunk for _, chunk in chunks] == [b"0", b"1", b"2"]
    assert b"backend_unavailable" in last
    assert ended
