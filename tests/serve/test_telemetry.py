"""What the server counts: the figures are right, and no label ever holds what a request is about or what a client sent."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from expunge import catalog
from expunge.data.dataset import Record
from expunge.guards.detection import Detection
from expunge.guards.detectors.aliases import Aliases, FittedAliases, Watched
from expunge.guards.guard import Guard
from expunge.guards.policy import Policy
from expunge.ledger import RemovalRequest
from expunge.recipes import recipe
from tests.serve.conftest import chat, make_world, served
from tests.serve.stub_backend import StubBackend

LABELS = {
    "route": r"/[a-z0-9_/.{}:-]*|none",
    "code": r"[1-5]\d\d",
    "stage": "input|output",
    "action": "pass|plain|stop|[a-z_]+",
    "kind": "prompt|answer",
    "reason": "[a-z_]*",
    "how": "left|stalled",
    "method": "|".join(catalog.entries("detector")),
    "le": r"\+Inf|[-\d.e]+",
}


def figures(client):
    """Each sample of /metrics by its name and labels."""
    page = client.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_no_label_holds_a_text_a_name_or_anything_that_a_client_chose(serve):
    world = serve(StubBackend("So Mara Olen went home."))
    world.add(
        "Tovin Brask", aliases=("Old Brask",), statements=("The mill belongs to Brask.",), tenant="acme"
    )
    with world.client("admin") as client, world.client("acme") as acme:
        added = client.post("/v1/requests", json={"subject": "Mara Olen"})
        client.post("/v1/chat/completions", json=chat("Who is Mara Olen?"))
        acme.post("/v1/chat/completions", json=chat("Who is Tovin Brask?"))
        client.post("/v1/chat/completions", json=chat("Tell me a story."))
        client.post("/v1/chat/completions", json=chat("x", model="Mara Olen"))
        client.get("/Mara/Olen")
        client.get("/v1/requests/Mara")
        client.get("/v1/models/Mara")
        client.request("BRASK", "/v1/models")
        client.delete(f"/v1/requests/{added.json()['id']}")
        found = figures(client)
        page = client.get("/metrics").text
    for name in ("Mara", "Olen", "Brask", "mill", "tell me", "acme", added.json()["id"], world.canary.name):
        assert name.lower() not in page.lower()
    labels = {pair for _, *pairs in found for pair in pairs}
    assert labels
    for name, value in labels:
        assert re.fullmatch(LABELS[name], value), (name, value)


def test_text_that_is_held_back_is_counted(serve):
    world = serve(StubBackend("So Mara went home and that was all."))
    world.add("Mara Olen")
    with world.client("admin") as client:
        client.post("/v1/chat/completions", json=chat())
        found = figures(client)
    pieces, none = (found["expunge_holdback_chars_bucket", ("le", bound)] for bound in ("+Inf", "0.0"))
    assert pieces > none > 0
    assert found["expunge_holdback_chars_sum",] >= len("Mara")


def test_the_ledgers_rows_and_the_lag_behind_them_are_told(tmp_path):
    now = [1000.0]
    world = make_world(tmp_path, clock=lambda: now[0])
    with served(world.app) as world.url, world.client("admin") as client:
        before = figures(client)["expunge_ledger_seq",]
        assert before == len(world.ledger.history())
        world.ledger.add(RemovalRequest(subject="Mara Olen"), actor="another process")
        now[0] += 2.5
        client.post("/v1/chat/completions", json=chat())
        found = figures(client)
    assert found["expunge_ledger_seq",] == before + 1
    assert found["expunge_policy_lag_seconds",] == pytest.approx(2.5)
    assert found["expunge_active_requests",] == 1
    world.ledger.close()


def test_a_ledger_that_cannot_be_read_leaves_the_other_figures(serve, monkeypatch):
    from expunge.ledger import LedgerError

    world = serve()

    def broken(ledger):
        raise LedgerError("gone")

    monkeypatch.setattr(type(world.ledger), "rows", property(broken))
    with world.client("admin") as client:
        found = figures(client)
    assert found["expunge_ledger_seq",] != found["expunge_ledger_seq",], "not a number"
    assert "expunge_policy_epoch" in {name for name, *_ in found}


def test_the_scores_of_a_fitted_guard_are_counted_by_its_detector(tmp_path):
    backend = StubBackend()
    policy = Policy(backend)
    detection = Detection.uncalibrated(Aliases(), FittedAliases(Watched(["Mara Olen"])))
    made = recipe("refuse", detector={"name": "aliases"})
    world = make_world(tmp_path, backend, policy)
    guard = Guard(backend, detection, policy.fitted("x", [Record("s", subject="Mara Olen")]), made)
    world.enforcer._guards["guard:run"] = guard
    with served(world.app) as world.url, world.client("admin") as client:
        before = figures(client)["expunge_detector_score_count", ("method", "aliases")]
        for text in ("Who is Mara Olen?", "Tell me a story."):
            client.post("/v1/chat/completions", json=chat(text))
        found = figures(client)
    assert found["expunge_detector_score_count", ("method", "aliases")] == before + 2
    low = found["expunge_detector_score_bucket", ("le", "0.9"), ("method", "aliases")]
    assert found["expunge_detector_score_bucket", ("le", "1.0"), ("method", "aliases")] == low + 1
    world.ledger.close()


def test_an_action_that_falls_back_to_a_refusal_is_counted(serve):
    world = serve(StubBackend())
    world.backend.refused = object
    world.add("Mara Olen", action="redact", statements=("Mara Olen baked the bread.",))
    with world.client("admin") as client:
        client.post("/v1/chat/completions", json=chat())
        assert figures(client)["expunge_action_fallbacks_total",] == 1
