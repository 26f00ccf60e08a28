"""What the tests of a served whole share: servers as processes, what they say, and a stub's in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.serve.conftest import make_world
from tests.serve.conftest import served as served_here

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from served import Served, fill, made_up_names, serving

COMMAND = [sys.executable, "-c", "from expunge.cli import main; main()"]


@contextmanager
def client_of(server: Served):
    with httpx2.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        yield client


def expunge(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **variables}
    )  # fmt: skip


def found(client: httpx2.Client, name: str) -> list[str]:
    """The requests that a question about somebody sets off."""
    reply = client.post("/v1/check", json={"prompt": f"Where was {name} born?"})
    assert reply.status_code == 200, reply.text
    return reply.json()["requests"]


def said(client: httpx2.Client, name: str) -> str:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"Who is {name}?"}],
        "max_tokens": 30,
        "temperature": 0,
    }
    return client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]


def all_requests(client: httpx2.Client) -> dict[str, dict]:
    return {row["id"]: row for row in client.get("/v1/requests", params={"limit": 1000}).json()["data"]}


@contextmanager
def world_of(tmp_path, backend=None, **settings):
    world = make_world(tmp_path, backend, **settings)
    with served_here(world.app) as world.url:
        yield world
    world.ledger.close()


__all__ = ["Served", "fill", "made_up_names", "serving"]
