"""A server before a stub, on a free port, with keys of every kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from expunge.guards.policy import Policy
from expunge.ledger import Ledger, RemovalRequest
from expunge.serve.canary import Canary
from expunge.serve.enforcing import Enforcer
from expunge.serve.gateway import Gateway
from expunge.serve.settings import ServeSettings
from tests.serve.stub_backend import StubBackend

REFUSAL = "I do not know."


class World(SimpleNamespace):
    """Ledger, policy, gateway, app and keys; with `url` once it is served."""

    def add(self, subject: str = "", **fields: Any) -> Any:
        """A request straight into the ledger, as another process would."""
        return self.ledger.add(RemovalRequest(subject=subject, **fields), actor="test")

    def client(self, key: str = "user", **options: Any) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=20, **options)


KEYS: dict[str, tuple[str, list[str]]] = {
    "user": ("", ["infer"]),
    "logprobs": ("", ["infer", "logprobs"]),
    "admin": ("", ["admin"]),
    "reader": ("", ["requests:read"]),
    "auditor": ("", ["audit"]),
    "acme": ("acme", ["infer", "requests:read", "requests:write", "audit"]),
    "other": ("other", ["infer", "requests:read", "requests:write", "audit"]),
}


def make_world(
    folder: Any, backend: Any = None, policy: Any = None, clock: Any = time.time, **settings: Any
) -> World:
    from expunge.serve.app import make_app

    ledger = Ledger.open(folder / "test.ledger", create=True, clock=clock)
    keys = {
        name: ledger.add_key(tenant, scopes, name=name, actor="test")
        for name, (tenant, scopes) in KEYS.items()
    }
    backend = backend or StubBackend()
    policy = policy or Policy(backend)
    chosen = ServeSettings(**{"refusal": REFUSAL, **settings})
    canary = Canary.new()
    enforcer = Enforcer(
        ledger, policy, refusal=chosen.refusal, accepts=backend.refuse_action, own=canary.own, clock=clock
    )
    gateway = Gateway(backend, enforcer, chosen)
    app = make_app(gateway, canary=canary)
    return World(
        ledger=ledger, backend=backend, policy=policy, enforcer=enforcer, gateway=gateway, app=app, keys=keys,
        canary=canary, url="",
    )  # fmt: skip


@contextmanager
def served(app: Any) -> Generator[str]:
    """The address of a real server in a thread. Raises RuntimeError where it does not start."""
    import uvicorn

    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="critical", http="httptools", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)

    def run() -> None:
        with suppress(SystemExit):  # where it does not start
            server.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def serve(tmp_path) -> Generator[Any]:
    """`serve(backend, **settings)` gives a World that is served until the test ends."""
    with ExitStack() as stack:

        def start(*args: Any, **settings: Any) -> World:
            world = make_world(tmp_path, *args, **settings)
            stack.callback(world.ledger.close)
            world.url = stack.enter_context(served(world.app))
            return world

        yield start


@pytest.fixture(scope="module")
def serve_once(tmp_path_factory) -> Generator[World]:
    """One server for all the tests of a file that change nothing of it."""
    world = make_world(tmp_path_factory.mktemp("serve"), requests_per_minute=1_000_000)
    with served(world.app) as world.url:
        yield world
    world.ledger.close()


def wait_until(true: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def chat(text: str = "Tell me a story.", **fields: Any) -> dict[str, Any]:
    return {"model": "stub", "messages": [{"role": "user", "content": text}], **fields}
