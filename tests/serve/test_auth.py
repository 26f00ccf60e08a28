"""Keys, scopes and tenants."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from expunge.ledger import Ledger
from expunge.serve.auth import EVERYBODY, Doorkeeper
from tests.serve.conftest import chat


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "a.ledger", create=True) as opened:
        yield opened


def test_a_key_opens_what_its_scopes_say(ledger):
    key = ledger.add_key("acme", ["infer"], name="n", rpm=5, actor="test")
    access = Doorkeeper(ledger).admit(f"Bearer {key}")
    assert access is not None
    assert (access.tenant, access.scopes, access.rpm) == ("acme", frozenset({"infer"}), 5)
    assert access.may("infer")
    assert not access.may("audit", "admin")


@pytest.mark.parametrize("change", ["", "Basic ", "bearer wrong", "x"])
def test_what_is_no_key_opens_nothing(ledger, change):
    key = ledger.add_key("", ["infer"], name="n", actor="test")
    keeper = Doorkeeper(ledger)
    for header in ("", change, f"Basic {key}", f"Bearer {key}x", f"Bearer {key[:-1]}", f"Bearer {key.upper()}", "Bearer exp_", "Bearer exp_a_b",
                   "Bearer " + "exp_" + "a" * 10_000, "Bearer exp_\x00_\x00", f"Bearer {key.replace('exp_', 'exp-')}"):  # fmt: skip
        assert keeper.admit(header) is None
    assert keeper.admit(f"bearer   {key} ") is not None


def test_a_key_that_has_expired_opens_nothing_even_if_the_clock_goes_back(ledger):
    soon = datetime.now(UTC) + timedelta(hours=1)
    key = ledger.add_key("", ["infer"], name="n", expires=soon, actor="test")
    now = [0.0]
    keeper = Doorkeeper(ledger, clock=lambda: now[0])
    assert keeper.admit(f"Bearer {key}")
    now[0] = soon.timestamp()
    assert keeper.admit(f"Bearer {key}") is None
    now[0] = 0.0
    assert keeper.admit(f"Bearer {key}") is None


def test_a_key_that_is_revoked_by_another_process_opens_nothing_from_the_next_request_on(ledger):
    key = ledger.add_key("", ["infer"], name="n", actor="test")
    keeper = Doorkeeper(ledger)
    assert keeper.admit(f"Bearer {key}")
    other = Ledger.open(ledger.path)
    other.revoke_key(key.split("_")[1], actor="test")
    other.close()
    assert keeper.admit(f"Bearer {key}") is None


def test_unknown_keys_are_compared_as_known_ones_are(ledger, monkeypatch):
    """The same digests are made and compared, so that time does not tell which ids there are."""
    key = ledger.add_key("", ["infer"], name="n", actor="test")
    keeper = Doorkeeper(ledger)
    made = []
    real = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *a: made.append(1) or real(*a))
    keeper.admit(f"Bearer {key}")
    counts = []
    for header in (f"Bearer {key[:-2]}xx", "Bearer exp_000000000000_" + "x" * 43):
        made.clear()
        assert keeper.admit(header) is None
        counts.append(len(made))
    assert counts[0] == counts[1]


def test_keys_read_before_are_not_read_again_until_the_ledger_changes(ledger, monkeypatch):
    key = ledger.add_key("", ["infer"], name="n", actor="test")
    keeper, read = Doorkeeper(ledger), []
    real = ledger.find_key
    monkeypatch.setattr(ledger, "find_key", lambda key_id: read.append(key_id) or real(key_id))
    for _ in range(3):
        assert keeper.admit(f"Bearer {key}")
    assert len(read) == 1
    ledger.add_key("", ["infer"], name="m", actor="test")
    assert keeper.admit(f"Bearer {key}")
    assert len(read) == 2


def test_only_so_many_keys_are_kept_at_hand(ledger, monkeypatch):
    monkeypatch.setattr("expunge.serve.auth.REMEMBERED", 2)
    keys = [ledger.add_key("", ["infer"], name=f"n{i}", actor="test") for i in range(5)]
    keeper = Doorkeeper(ledger)
    for key in keys * 2:
        assert keeper.admit(f"Bearer {key}")
        assert len(keeper._keys) <= 2


def test_without_keys_everybody_may_everything(ledger):
    assert Doorkeeper(ledger, no_auth=True).admit("") is EVERYBODY


def test_a_key_of_the_servers_own_is_in_no_ledger(ledger):
    keeper = Doorkeeper(ledger)
    key = keeper.own_key("canary")
    access = keeper.admit(f"Bearer {key}")
    assert access is not None
    assert access.scopes == frozenset({"infer"})
    assert Doorkeeper(ledger).admit(f"Bearer {key}") is None
    assert not ledger.keys()


NEEDS = {
    ("POST", "/v1/chat/completions"): {"user", "logprobs", "admin", "acme", "other"},
    ("POST", "/v1/completions"): {"user", "logprobs", "admin", "acme", "other"},
    ("GET", "/v1/models"): {"user", "logprobs", "admin", "acme", "other"},
    ("GET", "/v1/models/stub"): {"user", "logprobs", "admin", "acme", "other"},
    ("POST", "/v1/plain"): {"admin"},
    ("POST", "/v1/check"): {"admin"},
    ("GET", "/v1/decisions"): {"admin"},
    ("POST", "/v1/requests"): {"admin", "acme", "other"},
    ("GET", "/v1/requests"): {"admin", "acme", "other", "reader"},
    ("GET", "/v1/requests/x"): {"admin", "acme", "other", "reader"},
    ("PUT", "/v1/requests/x"): {"admin", "acme", "other"},
    ("DELETE", "/v1/requests/x"): {"admin", "acme", "other"},
    ("GET", "/v1/requests/x/evidence"): {"admin", "acme", "other", "reader", "auditor"},
    ("GET", "/v1/ledger"): {"admin", "acme", "other", "auditor"},
    ("GET", "/v1/ledger/verify"): {"admin", "acme", "other", "auditor"},
    ("GET", "/metrics"): {"admin", "auditor"},
}


def test_every_route_asks_for_its_scope_and_nobody_passes_without_a_key(serve_once):
    body = {
        "/v1/chat/completions": chat(), "/v1/completions": {"model": "stub", "prompt": "A"}, "/v1/check": {"prompt": "A"},
        "/v1/plain": chat(),
    }  # fmt: skip
    for name in ("", *serve_once.keys):
        with serve_once.client(name) as client:
            for (method, path), allowed in NEEDS.items():
                content = body.get(path, {"subject": "Nobody Known"}) if method in ("POST", "PUT") else None
                response = client.request(method, path, json=content)
                if name in allowed:
                    assert response.status_code not in (401, 403), (method, path, name)
                else:
                    assert response.status_code == (403 if name else 401), (method, path, name)
                    assert response.json()["error"]["type"] in ("permission_error", "authentication_error")


def test_every_route_of_the_description_is_in_that_list(serve_once):
    import re

    with serve_once.client("") as client:
        paths = client.get("/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    listed = {(m, re.sub("/stub$", "/{name}", re.sub("requests/x", "requests/{id}", p))) for m, p in NEEDS}
    assert described - {("GET", "/health")} == listed
