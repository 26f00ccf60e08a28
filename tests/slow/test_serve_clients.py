"""Clients that leave, stall and dawdle: what they held is free again, and others are answered meanwhile."""

from __future__ import annotations

import json
import random
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serve.conftest import REFUSAL, chat, wait_until
from tests.serve.stub_backend import STORY, StubBackend
from tests.slow.serving_cases import (
    client_of,
    fill,
    said,
    serving,
    world_of,
)

pytestmark = pytest.mark.slow


def address(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def request(key, body, told=None):
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {told or len(content)}\r\n\r\n".encode(), content


def test_a_crowd_of_clients_that_leave_stall_and_dawdle_blocks_nobody_else(tmp_path):
    long = " ".join(["word" * 5000] * 3000)
    backend = StubBackend(lambda prompt: long if "long" in prompt.text else STORY, pause=0.002)
    backend.context = 10_000
    settings = {
        "body_seconds": 1.0,
        "write_seconds": 1.0,
        "per_key": 1000,
        "max_concurrent": 64,
        "tokens_per_minute": 10**9,
        "requests_per_minute": 10**6,
    }
    rng = random.Random(0)
    with world_of(tmp_path, backend, **settings) as world, world.client() as client:
        key, open_ones = world.keys["user"], []
        for number in range(60):
            way = number % 6
            head, content = request(
                key,
                chat("long", stream=way != 1, n=1 + number % 2, max_tokens=3000),
                10**6 if way == 2 else None,
            )
            one = socket.create_connection(address(world.url), timeout=10)
            if way == 0:  # leaves in mid-stream
                one.sendall(head + content)
                one.recv(100)
                one.close()
            elif way == 1:  # leaves while the whole answer is written
                one.sendall(head + content)
                time.sleep(rng.random() / 50)
                one.close()
            elif way in (2, 3):  # never sends all of its body; takes nothing of its answer
                one.sendall(head + content)
                open_ones.append(one)
            elif way == 4:  # leaves within its body
                one.sendall(head + content[:10])
                one.close()
            else:  # is reset in mid-stream
                one.sendall(head + content)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.close()
            if number % 5 == 0:
                assert (
                    client.post("/v1/chat/completions", json=chat()).json()["choices"][0]["message"][
                        "content"
                    ]
                    == STORY
                )
        wait_until(lambda: world.gateway.running == 0 and backend.running == 0, 30)
        assert backend.cancelled >= 20
        assert {account.running for account in world.gateway.limits._accounts.values()} == {0}
        for one in open_ones:
            one.close()
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        assert client.get("/health").status_code == 200


def test_connections_that_bring_no_request_or_take_no_answer_are_let_go(model_folder, tmp_path):
    path = tmp_path / "a.ledger"
    key = fill(path, [])
    quick = ("--set", "head_seconds=1", "--set", "write_seconds=1", "--set", "body_seconds=1")
    with serving(str(model_folder), path, key, *quick, threads=1) as server, client_of(server) as client:

        def connections():
            files = Path(f"/proc/{server.process.pid}/fd").iterdir()
            return sum(str(file.readlink()).startswith("socket:") for file in files)

        assert client.get("/health").status_code == 200
        time.sleep(1)  # those that asked whether it was up are gone
        before = connections()
        head, content = request(key, chat())
        page = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        starts = [b"", b"GET / HT", head[:60], head + content[:5], page * 40_000]
        others = [socket.create_connection(address(server.url), timeout=10) for _ in starts for _ in range(2)]
        for number, other in enumerate(others):
            other.settimeout(2)
            with suppress(TimeoutError, ConnectionError):
                other.sendall(starts[number % len(starts)])
        assert connections() > before
        wait_until(lambda: connections() <= before, 60)
        assert client.get("/health").status_code == 200
        assert said(client, "Mara Olen") != REFUSAL
        for other in others:
            other.close()
