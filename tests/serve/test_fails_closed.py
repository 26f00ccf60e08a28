"""Whatever breaks, no text comes out that nobody watched."""

from __future__ import annotations

import httpx2
import pytest

from expunge.guards.aliases import AliasIndex
from expunge.guards.policy import Policy
from expunge.guards.snapshot import Snapshot
from expunge.guards.watching import Watch
from expunge.ledger import Ledger
from expunge.serve.auth import Doorkeeper
from expunge.serve.enforcing import Enforcer
from expunge.serve.limits import Limits
from expunge.serve.stops import Stops
from expunge.serve.telemetry import Telemetry
from tests.serve.conftest import chat
from tests.serve.stub_backend import StubBackend

PARTS = {
    "decision": (Snapshot, "decide"),
    "the watch's making": (Snapshot, "watch"),
    "watch": (Watch, "feed"),
    "names": (AliasIndex, "scan"),
    "policy": (Policy, "snapshot"),
    "enforcer": (Enforcer, "fresh"),
    "the ledger's version": (Ledger, "data_version"),
    "limits": (Limits, "reserve"),
    "stop strings": (Stops, "feed"),
    "records": (Telemetry, "decided"),
    "keys": (Doorkeeper, "admit"),
    "tokens": (StubBackend, "count"),
    "model": (StubBackend, "stream"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError, MemoryError, OSError])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_breaks_shows_nothing(world, monkeypatch, part, error, stream):
    def broken(*args, **kwargs):
        raise error("Who is Mara Olen?")

    where, name = PARTS[part]
    value = property(broken) if part == "policy" else broken
    with world.client() as client:
        monkeypatch.setattr(where, name, value)
        try:
            found = client.post("/v1/chat/completions", json=chat(stream=stream))
            status, text = found.status_code, found.text
        except httpx2.RemoteProtocolError:
            status, text = 200, ""
        monkeypatch.undo()
        assert "baker" not in text
        assert "Mara" not in text
        assert stream or status >= 500
        again = client.post("/v1/chat/completions", json=chat())
        assert again.json()["choices"][0]["message"]["content"] == "The baker is "
    assert world.gateway.running == world.backend.running == 0


@pytest.mark.parametrize("part", ["decision", "watch", "keys"])
def test_the_log_says_where_it_broke_and_no_text(world, monkeypatch, caplog, part):
    def broken_here(*args, **kwargs):
        raise KeyError("Who is Mara Olen?")

    with world.client() as client:
        monkeypatch.setattr(*PARTS[part], broken_here)
        client.post("/v1/chat/completions", json=chat())
        monkeypatch.undo()
    assert "KeyError" in caplog.text
    assert "in broken_here" in caplog.text
    assert "Who is" not in caplog.text.replace('raise KeyError("Who is Mara Olen?")', "")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from tests.serve.conftest import make_world, served

    made = make_world(
        tmp_path_factory.mktemp("closed"),
        StubBackend("The baker is Mara Olen."),
        requests_per_minute=1_000_000,
    )
    with served(made.app) as made.url:
        made.add("Mara Olen")
        yield made
    made.ledger.close()
