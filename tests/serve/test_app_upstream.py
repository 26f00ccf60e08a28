"""The whole way over HTTP before another server: what reaches it, what comes back, and every way in which it may fail."""

from __future__ import annotations

import json
import re
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import httpx2
import pytest

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, ModelError
from expunge.ledger import Ledger, RemovalRequest
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.serve.opening import Plan, open_server
from expunge.serve.settings import ServeSettings
from tests.serve.conftest import REFUSAL, served, wait_until
from tests.serve.fake_upstream import FakeUpstream

ASKED = "Where was Tovin Brask born?"
FLAGGED = "Where was Mara Olen born?"


@pytest.fixture(scope="module")
def lm(model_folder):
    return load(model_folder, device="cpu")


@pytest.fixture
def upstream(lm):
    fake = FakeUpstream(lm, vllm=False)
    with fake.running() as url:
        yield SimpleNamespace(fake=fake, url=url)


@pytest.fixture
def opened(tmp_path):
    """`opened(plan, **settings)`: the server before it, its ledger and clients."""
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(tmp_path / "test.ledger", create=True))
        key = ledger.add_key("", ["admin", "infer"], name="admin", actor="test")

        def start(plan, **settings):
            app = open_server(plan, ledger, ServeSettings(refusal=REFUSAL, **settings))
            url = stack.enter_context(served(app))
            client = httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=20)
            return SimpleNamespace(
                app=app, ledger=ledger, gateway=app.state.gateway, client=stack.enter_context(client),
                add=lambda subject, **more: ledger.add(RemovalRequest(subject=subject, **more), actor="test"),
            )  # fmt: skip

        yield start


def body(text, **fields):
    turn = {"role": "user", "content": text}
    return {"model": "tiny", "messages": [turn], "temperature": 0, "max_tokens": 12, **fields}


def asked(server, text, **fields):
    return server.client.post("/v1/chat/completions", json=body(text, **fields))


def begins(found, expected):
    """An answer that is cut may be shown without its last words, where a name may begin in them."""
    return expected.startswith(found) and len(found) >= len(expected) // 2


def said(server, text, **fields):
    found = asked(server, text, **fields)
    assert found.status_code == 200, found.text
    return found.json()["choices"][0]["message"]["content"]


def streamed(server, text, **fields):
    """The text of a stream, its reason to end, and an error in it."""
    found, finish, error = "", None, None
    with server.client.stream(
        "POST", "/v1/chat/completions", json=body(text, stream=True, **fields)
    ) as reply:
        if reply.status_code != 200:
            return "", None, json.loads(reply.read())["error"]
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            error = error or event.get("error")
            for choice in event.get("choices", ()):
                found += choice["delta"].get("content", "")
                finish = choice["finish_reason"] or finish
    return found, finish, error


def plain(upstream, text=ASKED):
    """What the server says when it is asked without us."""
    reply = httpx2.post(
        f"{upstream.url}/chat/completions", json={**body(text), "top_p": 1.0, "seed": 0, "stream": True}, timeout=20
    )  # fmt: skip
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"]["content"] for event in events)


def test_what_is_not_flagged_is_the_servers_own_answer_whole_streamed_and_as_a_text(opened, upstream):
    server = opened(Plan(upstream=f"{upstream.url}#tiny"))
    expected = plain(upstream)
    server.add("Mara Olen")
    upstream.fake.bodies.clear()
    assert begins(said(server, ASKED), expected)
    assert upstream.fake.bodies[0]["messages"] == [{"role": "user", "content": ASKED}]
    assert begins(streamed(server, ASKED)[0], expected)
    text = server.client.post("/v1/completions", json={"model": "tiny", "prompt": "The fox", "max_tokens": 4})
    assert text.json()["choices"][0]["finish_reason"] in ("length", "stop")
    assert upstream.fake.bodies[-1]["prompt"] == "The fox"


def test_several_answers_and_stop_strings_are_ours(opened, upstream):
    server = opened(Plan(upstream=f"{upstream.url}#tiny", name="public"))
    choices = asked(server, ASKED, model="public", n=3, temperature=1.5, seed=3).json()["choices"]
    assert len({choice["message"]["content"] for choice in choices}) > 1
    expected = plain(upstream)
    stop = expected[3:6]
    cut = asked(server, ASKED, model="public", stop=stop).json()["choices"][0]
    assert cut["message"]["content"] == expected[: expected.index(stop)]
    assert cut["finish_reason"] == "stop"
    assert {item["model"] for item in upstream.fake.bodies} == {"tiny"}


def test_what_is_flagged_is_refused_without_the_server_or_redacted_after_it(opened, upstream):
    server = opened(Plan(upstream=f"{upstream.url}#tiny"))
    (held,) = re.findall(r"[a-z]{4,}", plain(upstream))[:1]
    server.add("Mara Olen")
    server.add("Tovin Brask", action="redact", pairs=({"question": ASKED, "answer": held},))
    upstream.fake.bodies.clear()
    assert said(server, FLAGGED) == REFUSAL
    assert upstream.fake.bodies == []
    found = said(server, ASKED)
    assert upstream.fake.bodies
    assert found
    assert held not in found
    assert streamed(server, ASKED)[:2] == (found, "length")


@pytest.mark.parametrize("action", [{"name": "eco", "strength": 2.0}, "guard"])
def test_an_action_inside_the_model_is_told_to_whoever_asks_and_else_refused(opened, upstream, action):
    server = opened(Plan(upstream=f"{upstream.url}#tiny"))
    request = {"subject": "Mara Olen", "action": action, "statements": ["Mara Olen was born in Corvale."]}
    told = server.client.post("/v1/requests", json=request)
    assert told.status_code == 400, told.text
    assert "works on text" in told.text
    server.add("Mara Olen", action=action)
    assert said(server, FLAGGED) == REFUSAL


def test_a_fitted_guard_stands_beside_the_ledger_and_only_before_its_own_server(opened, upstream, tmp_path):
    address = f"{upstream.url}#tiny"
    rows = (Record("f0", question=FLAGGED, answer="In Corvale.", subject="Mara Olen"),)
    made = recipe("refuse", detector={"name": "aliases"}, action={"name": "refuse", "text": "Not this one."})
    run = unlearn(address, Dataset(rows, ()), made, tmp_path / "run")
    server = opened(Plan(upstream=address, guards=(run,)))
    assert said(server, FLAGGED) == "Not this one."
    assert begins(said(server, ASKED), plain(upstream))
    with pytest.raises(ModelError, match="fitted for another model"):
        open_server(Plan(upstream=f"{upstream.url}#other", guards=(run,)), server.ledger, ServeSettings())
    with pytest.raises(ConfigError, match="either MODEL or --upstream"):
        open_server(Plan(model="x", upstream=address), server.ledger, ServeSettings())


def test_a_server_that_is_down_keeps_nobody_from_starting_and_answers_come_when_it_is_back(opened, lm):

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = opened(Plan(upstream=f"http://127.0.0.1:{port}/v1#tiny"), canary_seconds=0.05)
    assert str(port) in server.gateway.unreachable
    server.add("Mara Olen")
    assert said(server, FLAGGED) == REFUSAL
    found = asked(server, ASKED)
    assert (found.status_code, found.json()["error"]["code"]) == (503, "backend_unavailable")
    assert found.headers["retry-after"]
    assert str(port) not in found.text, "whoever stands behind is not told"
    health = server.client.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["backend"]) == (
        503,
        "failing",
        "unreachable",
    )
    assert health.json()["canary"] == "held back"
    assert str(port) not in health.text
    with FakeUpstream(lm, vllm=False).running(port):
        wait_until(lambda: server.client.get("/health").status_code == 200)
        assert said(server, ASKED)


@pytest.mark.parametrize("fail", ["429", "503"])
def test_a_busy_server_is_told_as_busy(opened, upstream, fail):
    server = opened(Plan(upstream=f"{upstream.url}#tiny"))
    upstream.fake.fail = fail
    for stream in (False, True):
        found = asked(server, ASKED, stream=stream)
        assert (found.status_code, found.json()["error"]["code"]) == (503, "overloaded")
        assert int(found.headers["retry-after"]) >= 1


@pytest.mark.parametrize("fail", ["cut", "error", "broken"])
def test_a_server_that_fails_in_mid_stream_ends_the_answer_with_an_error_and_no_good_end(
    opened, upstream, fail
):
    server = opened(Plan(upstream=f"{upstream.url}#tiny"))
    upstream.fake.fail = fail
    _, finish, error = streamed(server, ASKED)
    assert (error["code"], finish) == ("backend_unavailable", None)
    assert "quoting" not in json.dumps(error)
    assert asked(server, ASKED).status_code == 503
    wait_until(lambda: server.gateway.running == 0)
    upstream.fake.fail = ""
    assert said(server, ASKED)


def test_the_watch_cuts_what_the_server_writes(opened, upstream):
    server = opened(Plan(upstream=f"{upstream.url}#tiny"))
    expected = plain(upstream)
    words = [word for word in expected.split() if word.isalpha()]
    held = " ".join(expected.split()[1:3]) if len(words) < 2 else words[1]
    server.add(statements=(held,), subject="Zarquon Vell")
    found = asked(server, ASKED).json()["choices"][0]
    assert found["finish_reason"] == "content_filter"
    assert held not in found["message"]["content"]
    text, finish, _ = streamed(server, ASKED)
    assert (text, finish) == (found["message"]["content"], "content_filter")


def test_a_client_that_leaves_ends_the_servers_work(opened, upstream):
    server = opened(Plan(upstream=f"{upstream.url}#tiny"))
    upstream.fake.pause = 0.05
    with server.client.stream(
        "POST", "/v1/chat/completions", json=body(ASKED, stream=True, max_tokens=60)
    ) as reply:
        next(reply.iter_lines())
    assert upstream.fake.left.wait(10)
    wait_until(lambda: server.gateway.running == 0)
