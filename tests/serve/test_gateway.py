"""What happens between prompt and answer: in mid-stream, when something breaks, when clients leave, and in which time."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sqlite3
import threading
import time
from itertools import islice

import pytest

from expunge.guards.watching import Watch
from expunge.serve.auth import Access
from expunge.serve.gateway import Gateway
from expunge.serve.pace import Pace
from expunge.serve.settings import ServeSettings
from expunge.serve.speaking import Refusals
from expunge.serve.wire import ChatRequest
from expunge.serve.wire_errors import ApiError
from tests.serve.conftest import REFUSAL, chat, make_world, wait_until
from tests.serve.stub_backend import StubBackend

CALLER = Access("k", "k", "", frozenset({"infer"}))


async def answered(gateway, text="Tell me a story.", caller=CALLER, **fields):
    """All that is shown, and how it ended."""
    answer = await gateway.open(ChatRequest(**chat(text, **fields)), caller)
    try:
        deltas = [delta async for delta in answer.deltas()]
    finally:
        answer.close()
    return "".join(delta.text for delta in deltas), deltas[-1].finish


@pytest.fixture
def world(tmp_path):
    made = make_world(tmp_path, StubBackend("The baker of Corvale is Mara Olen, they say."))
    made.enforcer.start()
    yield made
    made.ledger.close()


# --- in mid-stream ----------------------------------------------------------------------------------------------------
def test_a_request_that_comes_in_mid_stream_holds_for_the_rest(world):
    async def run():
        answer = await world.gateway.open(ChatRequest(**chat("Who bakes?")), CALLER)
        shown = []
        async for delta in answer.deltas():
            shown.append(delta)
            if len(shown) == 2:
                await asyncio.to_thread(world.add, "Mara Olen")
        answer.close()
        return shown

    shown = asyncio.run(run())
    assert "".join(d.text for d in shown).split() == ["The", "baker", "of", "Corvale", "is"]
    assert shown[-1].finish == "content_filter"
    assert world.backend.running == 0


def test_a_request_that_is_withdrawn_in_mid_stream_holds_nothing_back_any_more(world):
    entry = world.add("Mara Olen")

    async def run():
        answer = await world.gateway.open(ChatRequest(**chat("Who bakes?")), CALLER)
        text = ""
        async for delta in answer.deltas():
            if not text:
                await asyncio.to_thread(world.ledger.withdraw, entry.id, actor="test")
            text += delta.text
        answer.close()
        return text

    assert asyncio.run(run()) == world.backend.text


def test_other_tenants_requests_change_no_answer(world):
    world.add("Mara Olen", tenant="acme")
    mine, others = (CALLER._replace(tenant=name) for name in ("acme", "other"))
    assert asyncio.run(answered(world.gateway, caller=mine))[1] == "content_filter"
    assert asyncio.run(answered(world.gateway, caller=others)) == (world.backend.text, "stop")
    assert asyncio.run(answered(world.gateway, "Who is Mara Olen?", mine))[0] == REFUSAL


def test_a_stop_string_ends_what_the_watch_lets_through(world):
    world.add("Mara Olen")
    assert asyncio.run(answered(world.gateway, stop="Corvale")) == ("The baker of ", "stop")
    assert asyncio.run(answered(world.gateway, stop=["they"]))[1] == "content_filter"


# --- broken parts -----------------------------------------------------------------------------------------------------
class Broken:
    """A detector that fails, or takes its time."""

    def __init__(self, seconds=None):
        self.seconds = seconds

    def __getattr__(self, name):
        return None

    def flags(self, texts):
        if self.seconds is None:
            raise RuntimeError(f"cannot read {texts}")
        time.sleep(self.seconds)
        return [False] * len(texts)


def guarded(world, detector):
    from types import SimpleNamespace

    return SimpleNamespace(model=world.policy.model, action=None, flags=detector.flags, detection=detector)


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_a_detector_that_breaks_or_is_late_means_no_answer(tmp_path, seconds, caplog):
    world = make_world(tmp_path, decide_seconds=0.1)
    world.enforcer.start()
    world.policy.add_guard("g", guarded(world, Broken(seconds)))
    with pytest.raises(ApiError) as refused:
        asyncio.run(answered(world.gateway, "a secret of mine"))
    assert (refused.value.status, refused.value.code) == (503, "guard_unavailable")
    assert not world.backend.asks
    assert world.gateway.running == 0
    assert world.gateway.telemetry.guard_failures._value.get() == 1
    assert "secret" not in caplog.text
    world.policy.withdraw("g")
    assert asyncio.run(answered(world.gateway))[1] == "stop"
    world.ledger.close()


def test_a_watch_that_breaks_ends_the_answer(world, monkeypatch):
    calls = []

    def feed(self, text, last=False):
        calls.append(text)
        if len(calls) > 2:
            raise RuntimeError(text)
        return type(self).check.__globals__["Seen"](text, None)

    monkeypatch.setattr(Watch, "feed", feed)
    with pytest.raises(ApiError, match="no answer"):
        asyncio.run(answered(world.gateway))
    assert world.backend.cancelled == 1


def test_without_its_ledger_nothing_is_answered_until_it_is_back(serve, monkeypatch):
    world = serve(StubBackend(pause=0.02))
    real = world.ledger.data_version

    def broken():
        raise sqlite3.OperationalError("disk I/O error")

    with world.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
            lines = stream.iter_lines()
            next(lines)
            monkeypatch.setattr(world.ledger, "data_version", broken)
            rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert rest[-1]["error"]["code"] == "guard_unavailable"
        assert client.post("/v1/chat/completions", json=chat()).status_code == 503
        assert client.get("/health").status_code == 503
        monkeypatch.setattr(world.ledger, "data_version", real)
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        assert client.get("/health").status_code == 200


def test_a_model_that_breaks_is_503_before_the_first_text_and_an_error_event_after_it(serve):
    world = serve()
    with world.client() as client:
        world.backend.breaks_after = 0
        for stream in (False, True):
            failed = client.post("/v1/chat/completions", json=chat(stream=stream))
            assert (failed.status_code, failed.json()["error"]["code"]) == (503, "backend_unavailable")
        world.backend.breaks_after = 3
        assert client.post("/v1/chat/completions", json=chat()).status_code == 503
        cut = client.post("/v1/chat/completions", json=chat(stream=True, n=2))
    assert cut.status_code == 200
    last = [line for line in cut.text.split("\n\n") if line][-1]
    assert json.loads(last[6:])["error"]["code"] == "backend_unavailable"
    wait_until(lambda: world.gateway.running == world.backend.running == 0)


def test_an_answer_that_takes_too_long_is_ended(serve):
    world = serve(StubBackend(pause=0.1), answer_seconds=0.25)
    with world.client() as client:
        whole = client.post("/v1/chat/completions", json=chat())
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "timeout")
        streamed = client.post("/v1/chat/completions", json=chat(stream=True))
    assert json.loads(streamed.text.split("\n\n")[-2][6:])["error"]["code"] == "timeout"
    wait_until(lambda: world.gateway.running == world.backend.running == 0)
    assert world.backend.cancelled == 2


# --- clients ------------------------------------------------------------------------------------------------------------
def connected(world, body, path="/v1/chat/completions", length=None):
    host, port = world.url.removeprefix("http://").split(":")
    found = socket.create_connection((host, int(port)), timeout=10)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.keys['user']}\r\nContent-Type: application/json\r\n"
    found.sendall(f"{head}Content-Length: {length or len(content)}\r\n\r\n".encode() + content)
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_ends_the_models_work(serve, stream, n):
    world = serve(StubBackend("word " * 1000, pause=0.02))
    world.backend.context = 5000
    client = connected(world, chat(stream=stream, n=n, max_tokens=1000))
    wait_until(lambda: world.backend.running == n)
    client.close()
    wait_until(lambda: world.backend.cancelled == n and world.gateway.running == 0)


def test_a_client_that_takes_nothing_of_its_answer_is_let_go(serve):
    world = serve(StubBackend("word" * 2000 + (" " + "word" * 2000) * 3000), write_seconds=0.3)
    world.backend.context = 10_000
    client = connected(world, chat(stream=True, max_tokens=9000))
    wait_until(lambda: world.backend.cancelled == 1, 10)
    assert world.gateway.running == 0
    client.close()


def test_a_stream_with_nothing_to_say_gives_signs_of_life(serve):
    world = serve(StubBackend("One two.", pause=0.3), ping_seconds=0.1)
    with world.client() as client:
        text = client.post("/v1/chat/completions", json=chat(stream=True)).text
    assert text.count(": ping\n\n") >= 2
    assert text.endswith("data: [DONE]\n\n")


def test_ten_megabytes_are_refused_before_they_are_read(serve):
    world = serve()
    client = connected(world, b"x", length=10 << 20)
    assert b" 413 " in client.recv(200)
    client.close()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + world.keys["user"].encode()
    client = socket.create_connection(client_address(world), timeout=10)
    client.sendall(head + b"\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for _ in range(160):
            client.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    except OSError:
        pass  # the server has hung up
    assert b" 413 " in client.recv(200)
    client.close()


def client_address(world):
    host, port = world.url.removeprefix("http://").split(":")
    return host, int(port)


def test_a_body_that_comes_too_slowly_is_not_waited_for(serve):
    world = serve(body_seconds=0.2)
    client = connected(world, b"{", length=100)
    assert b" 408 " in client.recv(200)
    client.close()


# --- time ---------------------------------------------------------------------------------------------------------------
def test_refusals_come_at_the_pace_of_answers_that_were_measured():
    slept, now = [], [0.0]

    async def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds + 0.001  # a wake-up is late

    pace = Pace(random.Random(0))
    for i in range(40):
        pace.learn(10 * i, [1.0 + i / 100] + [0.05 + i / 1000] * (i % 5))

    async def run():
        return [
            p
            async for p in Refusals(StubBackend(), pace, sleep, lambda: now[0]).say(
                REFUSAL, 400, 64, logprobs=False
            )
        ]

    pieces = asyncio.run(run())
    assert "".join(piece.text for piece in pieces) == REFUSAL
    assert [piece.tokens for piece in pieces] == [1, 2, 3, 4, 5]
    assert pieces[-1].finish == "stop"
    assert 1.3 <= slept[0] <= 1.4, "as answers to prompts of about this length"
    assert len(slept) == 5
    like = round(100 * (slept[0] - 1))
    assert now[0] - 0.001 == pytest.approx(1.0 + like / 100 + 4 * (0.05 + like / 1000)), "of one and the same"


def test_the_pace_is_learnt_from_unguarded_answers_by_the_models_time_alone(tmp_path):
    """The clock stands still while the client reads."""
    now = [0.0]
    world = make_world(tmp_path)

    async def gate():
        now[0] += 0.25

    world.backend.gate = gate
    gateway = Gateway(
        world.backend,
        world.enforcer,
        world.gateway.settings,
        clock=lambda: now[0],
        pace=Pace(random.Random(0)),
    )
    world.enforcer.start()

    async def run():
        answer = await gateway.open(ChatRequest(**chat()), CALLER)
        async for _ in answer.deltas():
            now[0] += 100.0
        answer.close()

    asyncio.run(run())
    learnt = list(islice(gateway.pace.waits(4), 13))
    assert learnt == [0.25] * 12 + [0.0]
    world.ledger.close()


def test_refusals_of_mixed_actions_say_what_the_server_says(tmp_path):
    world = make_world(tmp_path, refusal="Not this.")
    world.enforcer.start()
    world.add("Mara Olen")
    assert asyncio.run(answered(world.gateway, "Who is Mara Olen?"))[0] == "Not this."
    world.ledger.close()


def test_decisions_do_not_wait_for_each_other_beyond_the_threads_there_are(tmp_path):
    """A detector that hangs for one prompt does not keep others from theirs."""
    world = make_world(tmp_path, decide_seconds=5)
    world.enforcer.start()
    hangs, free = threading.Event(), threading.Event()

    class Hanging(Broken):
        def flags(self, texts):
            if any("hang" in text for text in texts):
                hangs.set()
                free.wait(5)
            return [False] * len(texts)

    world.policy.add_guard("g", guarded(world, Hanging()))

    async def run():
        slow = asyncio.create_task(answered(world.gateway, "hang on"))
        await asyncio.to_thread(hangs.wait, 5)
        quick = await answered(world.gateway)
        free.set()
        return quick, await slow

    quick, slow = asyncio.run(run())
    assert quick[1] == slow[1] == "stop"
    world.ledger.close()


def test_settings_are_strict():
    with pytest.raises(ValueError):
        ServeSettings(bodybytes=1)


def test_several_answers_are_all_reserved_and_a_client_that_leaves_early_leaves_nothing_taken(
    world, monkeypatch
):
    async def run():
        answer = await world.gateway.open(ChatRequest(**chat(n=3, max_tokens=10)), CALLER)
        left = int(answer.limits["x-ratelimit-remaining-tokens"])
        assert world.gateway.settings.tokens_per_minute - left == answer.usage.prompt_tokens + 3 * 10
        answer.close()
        assert world.gateway.running == 0

        async def looks(*_):
            await asyncio.sleep(60)

        monkeypatch.setattr(world.gateway, "look", looks)
        opening = asyncio.create_task(world.gateway.open(ChatRequest(**chat(n=3)), CALLER))
        await asyncio.sleep(0)
        assert world.gateway.running == 3
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert world.gateway.running == 0

    asyncio.run(run())
