"""A server whose process is killed, or that shares its ledger: nothing that was acknowledged is lost, nothing withdrawn comes back."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from itertools import count

import httpx2
import numpy as np
import pytest

from expunge.ledger import Ledger
from tests.serve.conftest import REFUSAL, wait_until
from tests.slow.serving_cases import (
    COMMAND,
    Served,
    all_requests,
    client_of,
    expunge,
    fill,
    found,
    made_up_names,
    said,
    serving,
)

pytestmark = pytest.mark.slow


# --- kill -9 --------------------------------------------------------------------------------------------------------------
class Storm:
    """Clients that add, withdraw and stream until the server is killed; what was acknowledged to them."""

    def __init__(self, server: Served, names: list[str]):
        self.server, self.waiting = server, iter(names)
        self.names: dict[str, str] = {}
        """By id, of requests that were acknowledged."""
        self.withdrawn: set[str] = set()
        self.sent: set[str] = set()
        """Withdrawals that were asked for."""
        self.pieces = 0
        self.cut = 0
        """Streams that ended without their last mark."""

    def run(self, seconds: float) -> None:
        threads = [
            threading.Thread(target=self._until_it_dies, args=(work,))
            for work in (self._add, self._withdraw, self._stream)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(self.names) > 3 and self.withdrawn and self.pieces > 3, 60)
        time.sleep(seconds)
        self.server.process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join(30)

    def _until_it_dies(self, work) -> None:
        try:
            with client_of(self.server) as client:
                for number in count():
                    work(client, number)
        except httpx2.HTTPError:
            return

    def _add(self, client: httpx2.Client, number: int) -> None:
        name, id = next(self.waiting), f"{self.server.process.pid}-{number}"
        reply = client.post(
            "/v1/requests", json={"id": id, "subject": name, "statements": [f"{name} was born in Corvale."]}
        )
        assert reply.status_code == 201, reply.text
        self.names[id] = name

    def _withdraw(self, client: httpx2.Client, number: int) -> None:
        id = f"{self.server.process.pid}-{3 * number}"
        wait_until(lambda: id in self.names or self.server.process.poll() is not None, 30)
        self.sent.add(id)
        assert client.delete(f"/v1/requests/{id}").status_code == 200
        self.withdrawn.add(id)

    def _stream(self, client: httpx2.Client, number: int) -> None:
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "the quick brown fox"}],
            "max_tokens": 90,
            "stream": True,
        }
        self.cut += 1
        with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            for line in reply.iter_lines():
                self.pieces += 1
                self.cut -= line == "data: [DONE]"


def test_nothing_that_a_killed_server_acknowledged_is_lost_and_nothing_withdrawn_comes_back(
    model_folder, tmp_path
):
    path = tmp_path / "a.ledger"
    key = fill(path, [])
    names = iter(made_up_names(5000, np.random.default_rng(0)))
    known: dict[str, str] = {}
    withdrawn: set[str] = set()
    asked: set[str] = set()
    for seconds in (0.02, 0.4, None):
        with serving(str(model_folder), path, key, threads=1) as server:
            with client_of(server) as client:
                assert client.get("/v1/ledger/verify").json()["ok"]
                stands = all_requests(client)
                assert set(known) <= set(stands)
                for id, row in stands.items():
                    gone = row["status"] == "withdrawn"
                    assert row["in_force"] is not gone
                    assert gone or id not in withdrawn
                    assert not gone or id in asked
                for id, name in random.Random(0).sample(sorted(known.items()), min(40, len(known))):
                    assert found(client, name) == ([id] if stands[id]["status"] == "active" else [])
                for id, name in list(known.items())[-6:]:
                    assert (said(client, name) == REFUSAL) is (stands[id]["status"] == "active")
            if seconds is not None:
                storm = Storm(server, names)
                storm.run(seconds)
                known |= storm.names
                withdrawn |= storm.withdrawn
                asked |= storm.sent
                assert storm.cut <= 1
    assert len(known) > 8
    assert len(withdrawn) >= 2
    assert expunge("request", "verify", "--ledger", path).returncode == 0


def test_a_server_killed_while_it_starts_leaves_its_ledger_whole(model_folder, tmp_path):
    path = tmp_path / "a.ledger"
    fill(path, ["Mara Olen"])
    for seconds in (0.5, 2.0):
        process = subprocess.Popen(
            [*COMMAND, "serve", str(model_folder), "--ledger", str(path), "--port", "0"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(seconds)
        process.kill()
        process.wait()
        with Ledger.open(path) as ledger:
            assert ledger.verify().ok
            assert [entry.request.subject for entry in ledger.active()] == ["Mara Olen"]


# --- several processes on one ledger ------------------------------------------------------------------------------------------
def test_two_servers_and_the_command_line_follow_one_ledger_at_once(model_folder, tmp_path):
    path = tmp_path / "a.ledger"
    key = fill(path, [])
    names = made_up_names(40, np.random.default_rng(1))
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(str(model_folder), path, key, threads=1)) for _ in range(2)]
        clients = [stack.enter_context(client_of(server)) for server in servers]
        plain = [said(client, names[0]) for client in clients]
        assert REFUSAL not in plain

        for number, name in enumerate(names[:20]):
            one, other = clients[:: 1 if number % 2 else -1]
            id = one.post("/v1/requests", json={"subject": name}).json()["id"]
            assert found(other, name) == [id], "on its very next prompt"
            assert one.delete(f"/v1/requests/{id}").status_code == 200
            assert found(other, name) == []

        added = expunge("request", "add", "--ledger", path, "--subject", names[0], "--id", "case-1", "--json")
        assert added.returncode == 0, added.stderr
        for client in clients:
            assert said(client, names[0]) == REFUSAL
            assert found(client, names[0]) == ["case-1"]
        assert expunge("request", "withdraw", "case-1", "--ledger", path).returncode == 0
        for client, before in zip(clients, plain, strict=True):
            assert found(client, names[0]) == []
            assert said(client, names[0]) == before

        def write(client, mine):
            for name in mine:
                assert client.post("/v1/requests", json={"subject": name}).status_code == 201

        threads = [
            threading.Thread(target=write, args=(client, names[20 + i :: 2]))
            for i, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        heads = []
        for client in clients:
            verified = client.get("/v1/ledger/verify").json()
            assert verified["ok"]
            heads.append(verified["head"])
            assert all(len(found(client, name)) == 1 for name in names[20:])
        assert heads[0] == heads[1]
        assert {client.get("/health").json()["epoch"] for client in clients} == {
            max(r["epoch"] for r in all_requests(client).values())
        }

        other = (
            expunge("key", "add", "--ledger", path, "--name", "app", "--scope", "infer")
            .stdout.strip()
            .splitlines()[-1]
        )
        for server in servers:
            assert (
                httpx2.get(
                    f"{server.url}/v1/models", headers={"Authorization": f"Bearer {other}"}
                ).status_code
                == 200
            )
        assert expunge("key", "revoke", other.split("_")[1], "--ledger", path).returncode == 0
        for server in servers:
            assert (
                httpx2.get(
                    f"{server.url}/v1/models", headers={"Authorization": f"Bearer {other}"}
                ).status_code
                == 401
            )
    assert expunge("request", "verify", "--ledger", path).returncode == 0
