"""Whatever is sent, the server keeps its word: described statuses, errors in OpenAI's shape, no 500, and the next good request is served."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from tests.serve.conftest import World, chat, make_world, served

KEPT = "case-1"
"""A request that stands in the ledger; half of all ids become it."""
FREE = ("positive_data_acceptance", "negative_data_rejection")
"""The description cannot say all that is refused (a model's name, ids, times); queries that nobody reads are let pass."""
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": chat("Tell me a story.", max_tokens=3, stop=["x"], temperature=0.5, seed=1, n=1),
    "POST /v1/completions": {"model": "stub", "prompt": "A story:", "max_tokens": 3, "top_p": 0.5, "stream": True},
    "POST /v1/plain": chat("Tell me a story.", max_tokens=3, metadata={"a": "b"}, stream_options={"include_usage": True}, stream=True),
    "POST /v1/check": {"prompt": "Tell me a story.", "tenant": "acme"},
    "POST /v1/requests": {
        "subject": "Tovin Brask", "aliases": ["Dr Brask"], "statements": ["Tovin Brask bakes."], "tenant": "acme", "note": "",
        "pairs": [{"question": "Who bakes?", "answer": "He"}], "scope": {"input": True}, "action": {"name": "refuse", "text": "No."},
        "effective": "2027-01-31T12:00:00+01:00", "expires": "2030-01-01", "method": "",
    },
}  # fmt: skip
BODIES[f"PUT /v1/requests/{KEPT}"] = {**BODIES["POST /v1/requests"], "tenant": ""}
ROUTES = st.sampled_from(list(BODIES))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = make_world(
        tmp_path_factory.mktemp("fuzz"),
        requests_per_minute=10**6, tokens_per_minute=10**9, allow_plain=True, body_bytes=1 << 20,
    )  # fmt: skip
    made.add("Mara Olen", id=KEPT)
    with served(made.app) as made.url, made.client("admin") as made.http:
        yield made
    made.ledger.close()


# --- bodies as described ------------------------------------------------------------------------------------------------
NEUTRAL = {"action": "refuse", "method": "", "effective": None, "expires": None, "id": "", "tenant": ""}
"""What the description cannot say of a request; with it more of them are good."""


@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
def test_every_route_answers_as_it_is_described(world, mode):
    described = schemathesis.openapi.from_url(f"{world.url}/openapi.json")
    routes = [found.ok() for found in described.get_all_operations()]
    assert len(routes) >= 15
    checks = [check for check in CHECKS.get_all() if check.__name__ not in FREE]
    for route in routes:
        if route.path == "/health" and mode is schemathesis.GenerationMode.NEGATIVE:
            continue  # it takes nothing that could be wrong

        @given(case=route.as_strategy(generation_mode=mode))
        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
        def holds(case):
            if isinstance(case.body, dict):
                case.body |= {name: "stub" for name in case.body if name == "model"}
                if len(str(case.body)) % 2:
                    case.body |= {name: value for name, value in NEUTRAL.items() if name in case.body}
            if len(str((case.path_parameters or {}).get("id", ""))) % 2:
                case.path_parameters["id"] = KEPT
            response = case.call(headers={"Authorization": f"Bearer {world.keys['admin']}"})
            case.validate_response(response, checks=checks)
            assert response.status_code != 503, response.text

        holds()


# --- other bodies ---------------------------------------------------------------------------------------------------------
ODD = st.sampled_from(
    ["1e999", "-1e999", "NaN", "-Infinity", "9" * 5000, "1e-999", "-0", "18446744073709551616", '"\\ud800"', '"\\u0000"', '""',
     '"\u202e\ufdfa\U0010ffff"', "true", "null", "[]", "{}", "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000,
     '"9999-12-31T23:59:59-23:59"', '"0001-01-01T00:00:00+14:00"', '"' + "ab " * 20_000 + '"', '["a","a"]', "0.5", "07", "'a'",
     '{"__proto__": 1}', '{"name": "eco", "strength": NaN}', '{"name": "os:system"}', '{"name": ["refuse"]}', '[[]]', '[null]']
)  # fmt: skip
"""JSON values, or what comes near it, as they are written."""
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name"]) | st.text(max_size=8),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value, ensure_ascii=False))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, part in inner for found in places(part, (*path, name)))]


def put(value: Any, path: tuple[Any, ...], written: str) -> str:
    """The value as JSON, with something else written at one place."""
    if not path:
        return written
    if isinstance(value, dict):
        parts = (
            f"{json.dumps(name)}: {put(part, path[1:], written) if name == path[0] else json.dumps(part)}"
            for name, part in value.items()
        )
        return "{" + ", ".join(parts) + "}"
    return (
        "["
        + ", ".join(put(v, path[1:], written) if i == path[0] else json.dumps(v) for i, v in enumerate(value))
        + "]"
    )


@st.composite
def raw(draw, good: Any) -> bytes:
    """A good body with one thing wrong, or none."""
    kind = draw(
        st.sampled_from(["value", "value", "value", "whole", "twice", "field", "bytes", "cut", "encoding"])
    )
    text = json.dumps(good)
    if kind in ("value", "whole"):
        where = draw(st.sampled_from(places(good))) if kind == "value" else ()
        return put(good, where, draw(ODD | PLAIN)).encode("utf-8", "surrogatepass")
    if kind == "twice":
        name = draw(st.sampled_from(list(good)))
        return (text[:-1] + f", {json.dumps(name)}: {draw(ODD | PLAIN)}" + "}").encode(
            "utf-8", "surrogatepass"
        )
    if kind == "field":
        name = json.dumps(draw(st.text(max_size=20)))
        return (text[:-1] + f", {name}: {draw(ODD | PLAIN)}" + "}").encode("utf-8", "surrogatepass")
    content = text.encode()
    at = draw(st.integers(0, len(content)))
    if kind == "bytes":
        return content[:at] + draw(st.binary(min_size=1, max_size=6)) + content[at:]
    if kind == "cut":
        return content[:at]
    return text.encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp500"])))


TYPES = st.sampled_from(
    ["application/json"] * 6
    + ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x",
       "application/json; charset=utf-16", "application/vnd.x+json", "APPLICATION/JSON", "json", "\xff", "application/json, text/plain"]
)  # fmt: skip


def refused_well(response: Any) -> None:
    """An error that a client's mistake makes, in OpenAI's shape."""
    assert 400 <= response.status_code < 500, (response.status_code, response.text[:300])
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]


@given(data=st.data(), route=ROUTES, content_type=TYPES, chunked=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_body_of_any_kind_is_served_or_refused_in_words_and_the_next_one_is_served(
    world, data, route, content_type, chunked
):
    method, path = route.split()
    content: Any = data.draw(raw(BODIES[route]))
    parts = iter([content[:7], content[7:]]) if chunked else content
    response = world.http.request(
        method, path, content=parts, headers={b"content-type": content_type.encode("latin-1")}
    )
    if response.status_code not in (200, 201):
        refused_well(response)
    served_still(world)


def served_still(world: World) -> None:
    for _ in range(2):
        assert world.http.post("/v1/chat/completions", json=chat("And now?")).status_code == 200


# --- long ones ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("told", [True, False])
def test_of_ten_megabytes_no_more_is_read_than_is_allowed(world, route, told):
    method, path = route.split()
    taken, sent = 0, []

    async def receive():
        nonlocal taken
        taken += 65536
        return {"type": "http.request", "body": b" " * 65536, "more_body": taken < 10 << 20}

    async def send(message):
        sent.append(message)

    headers = [
        (b"host", b"x"),
        (b"authorization", b"Bearer " + world.keys["admin"].encode()),
        (b"content-type", b"application/json"),
        *([(b"content-length", b"%d" % (10 << 20))] if told else []),
    ]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(world.app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["error"]["code"] == "body_too_large"
    assert taken <= (0 if told else (1 << 20) + 65536)


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "text",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", HEAD + b"Content-Length: -5\r\n\r\n{}",
     HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}", HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
     HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
     HEAD + b"Authorization: Bearer exp_\xff\xfe_\x00\r\nContent-Length: 2\r\n\r\n{}", HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
     b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /v1/%00%ff%2e%2e/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
     HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"],
)  # fmt: skip
def test_what_is_hardly_http_gets_no_answer_of_the_model_and_no_500(world, text):
    host, port = world.url.removeprefix("http://").split(":")
    asked = len(world.backend.asks)
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert not answer or answer.split(b" ", 2)[1][:1] == b"4", answer[:200]
    assert len(world.backend.asks) == asked
    served_still(world)
