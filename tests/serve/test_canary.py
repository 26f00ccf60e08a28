"""A server whose guard does not work does not serve."""

from __future__ import annotations

import asyncio

import pytest

from expunge.serve.canary import Canary
from tests.serve.conftest import make_world, served, wait_until
from tests.serve.stub_backend import StubBackend


def test_names_of_canaries_are_made_up_and_differ():
    names = {Canary.new().name for _ in range(50)}
    assert len(names) == 50
    assert all(len(name) > 20 for name in names)


def test_the_canary_is_refused_and_cut_and_leaves_no_trace(tmp_path):
    world = make_world(tmp_path)
    with served(world.app) as world.url, world.client("admin") as client:
        assert world.app.state.checker.failed == ""
        assert client.get("/v1/decisions").json()["data"] == []
        assert client.get("/v1/requests").json()["data"] == []
        assert world.canary.name not in client.get("/metrics").text
    assert not world.backend.asks
    world.ledger.close()


@pytest.mark.parametrize("broken", ["decide", "watch", "enforcer"])
def test_a_server_whose_guard_is_not_live_does_not_start(tmp_path, monkeypatch, broken):
    from expunge.guards.snapshot import Snapshot

    world = make_world(tmp_path, StubBackend())
    if broken == "decide":
        from expunge.guards.snapshot import Decision

        monkeypatch.setattr(
            Snapshot, "decide", lambda self, prompts, tenant="": [Decision(())] * len(prompts)
        )
    elif broken == "watch":
        monkeypatch.setattr(Snapshot, "watch", lambda *a, **k: None)
    else:
        world.enforcer._own.clear()
    with pytest.raises(RuntimeError, match="did not start"), served(world.app):
        pass
    world.ledger.close()


def test_a_guard_that_dies_while_serving_is_seen_and_health_says_so(tmp_path):
    world = make_world(tmp_path, canary_seconds=0.05)
    with served(world.app) as world.url, world.client("") as client:
        checks = world.gateway.telemetry.canary_checks._value
        before = checks.get()
        wait_until(lambda: checks.get() > before + 2)
        assert client.get("/health").status_code == 200
        world.policy.withdraw(world.canary.key)
        wait_until(lambda: world.gateway.telemetry.canary_leaks._value.get() > 0)
        health = client.get("/health")
        assert (health.status_code, health.json()["canary"]) == (503, "failed")
    world.ledger.close()


def test_a_full_server_is_no_broken_guard(tmp_path):
    world = make_world(tmp_path, max_concurrent=1)

    async def run():
        await world.gateway.start()
        world.gateway.running = 1
        found = await world.app.state.checker.check()
        await world.gateway.stop()
        return found

    assert asyncio.run(run()) == ""
    world.ledger.close()
