"""An answer's end: what is held back comes out with it, and without one there is no answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from expunge.serve.auth import Access
from expunge.serve.wire import ChatRequest
from expunge.serve.wire_errors import ApiError
from tests.serve.conftest import chat, make_world
from tests.serve.stub_backend import STORY, StubBackend

CALLER = Access("k", "k", "", frozenset({"infer"}))


class Endless(StubBackend):
    """Breaks off without a word."""

    async def stream(self, ask):
        async for piece in super().stream(ask):
            if not piece.finish:
                yield piece


async def answered(gateway, **fields):
    answer = await gateway.open(ChatRequest(**chat(**fields)), CALLER)
    try:
        deltas = [delta async for delta in answer.deltas()]
    finally:
        answer.close()
    return "".join(delta.text for delta in deltas), deltas[-1].finish


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop": "lamps. And then"}, (STORY, "stop")),
        ({"stop": "a time", "max_tokens": 3}, ("Once upon a", "length")),
    ],
)
def test_the_beginning_of_a_stop_string_that_never_came_is_shown_in_the_end(tmp_path, fields, expected):
    world = make_world(tmp_path)
    world.enforcer.start()
    assert asyncio.run(answered(world.gateway, **fields)) == expected
    world.ledger.close()


@pytest.mark.parametrize("n", [1, 2])
def test_a_model_that_stops_without_an_end_has_broken_off(tmp_path, n, caplog):
    world = make_world(tmp_path, Endless())
    world.enforcer.start()
    with pytest.raises(ApiError) as failed:
        asyncio.run(answered(world.gateway, n=n))
    assert (failed.value.status, failed.value.code) == (503, "backend_unavailable")
    assert "broke off without an end" in caplog.text
    assert world.gateway.running == 0
    world.ledger.close()


def test_a_stream_that_breaks_off_does_not_end_as_a_good_one(serve):
    with serve(Endless()).client() as client:
        events = client.post("/v1/chat/completions", json=chat(stream=True)).text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "backend_unavailable"
