"""Limits by requests, tokens and answers at once, and what a client is told of them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from expunge.serve.auth import Access
from expunge.serve.limits import Limits
from expunge.serve.settings import ServeSettings
from expunge.serve.wire_errors import ApiError
from tests.serve.conftest import chat, wait_until
from tests.serve.stub_backend import StubBackend


def access(rpm=None, tpm=None, name="a"):
    return Access(name, name, "", frozenset({"infer"}), rpm, tpm)


@pytest.fixture
def now():
    return [100.0]


def limits(now, **settings):
    return Limits(ServeSettings(**settings), clock=lambda: now[0])


def test_requests_fill_up_again_within_a_minute(now):
    found, key = limits(now), access(rpm=3)
    for _ in range(3):
        found.reserve(key, 1).settle(1)
    with pytest.raises(ApiError) as refused:
        found.reserve(key, 1)
    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"] == "20"
    assert refused.value.headers["x-ratelimit-remaining-requests"] == "0"
    found.reserve(access(rpm=3, name="b"), 1)
    now[0] += 20
    found.reserve(key, 1)


def test_tokens_are_reserved_and_what_was_not_used_comes_back(now):
    found, key = limits(now), access(tpm=100)
    first = found.reserve(key, 80)
    with pytest.raises(ApiError):
        found.reserve(key, 30)
    first.settle(10)
    first.settle(0)
    second = found.reserve(key, 90)
    assert second.headers["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(ApiError) as refused:
        found.reserve(key, 101)
    assert "Retry-After" not in refused.value.headers, "no waiting helps"


def test_what_comes_back_late_fills_up_no_more_than_a_minutes_worth(now):
    found, key = limits(now), access(tpm=100)
    first = found.reserve(key, 80)
    now[0] += 60
    second = found.reserve(key, 1)
    first.settle(0)
    second.settle(0)
    found.reserve(key, 100)
    with pytest.raises(ApiError):
        found.reserve(key, 1)


def test_an_answer_that_was_longer_than_reserved_is_paid_for(now):
    found, key = limits(now), access(tpm=100)
    found.reserve(key, 10).settle(150)
    now[0] += 30
    with pytest.raises(ApiError):
        found.reserve(key, 1)
    now[0] += 1
    found.reserve(key, 1)


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing(now):
    found, key = limits(now), access(rpm=1)
    found.reserve(key, 1)
    now[0] -= 50
    with pytest.raises(ApiError):
        found.reserve(key, 1)
    now[0] += 60
    found.reserve(key, 1)


def test_answers_at_once_are_capped_by_key(now):
    found, key = limits(now, per_key=2), access()
    first = found.reserve(key, 1)
    found.reserve(key, 1)
    with pytest.raises(ApiError) as refused:
        found.reserve(key, 1)
    assert (refused.value.status, refused.value.code) == (429, "too_many_at_once")
    first.settle(1)
    found.reserve(key, 1)


def test_a_client_over_its_limit_is_told_when_to_come_back(serve):
    world = serve(requests_per_minute=2)
    with world.client() as client:
        first = client.post("/v1/chat/completions", json=chat())
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        client.post("/v1/chat/completions", json=chat())
        over = client.post("/v1/chat/completions", json=chat())
    assert over.status_code == 429
    assert int(over.headers["retry-after"]) in range(1, 61)
    assert over.json()["error"]["type"] == "rate_limit_error"
    with world.client("admin") as client:
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200


def test_a_full_server_and_a_full_model_say_503_and_when_to_come_back(serve):
    opened = threading.Event()
    world = serve(StubBackend(), max_concurrent=1)

    async def gate():
        while not opened.is_set():
            await asyncio.sleep(0.005)

    world.backend.gate = gate
    with world.client() as client:
        waiting = threading.Thread(
            target=client.post, args=("/v1/chat/completions",), kwargs={"json": chat()}
        )
        waiting.start()
        wait_until(lambda: world.backend.running == 1)
        for text in ("Tell me.", f"Who is {world.canary.name}?"):
            full = client.post("/v1/chat/completions", json=chat(text))
            assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
            assert full.headers["retry-after"] == "1"
        opened.set()
        waiting.join()
        world.backend.busy = True
        for stream in (False, True):
            busy = client.post("/v1/chat/completions", json=chat(stream=stream))
            assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    wait_until(lambda: world.gateway.running == 0)
