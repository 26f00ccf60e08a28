"""The routes for removal requests, and the records about them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.serve.conftest import REFUSAL, chat, make_world, served


def said(client, text="Who is Mara Olen?"):
    return client.post("/v1/chat/completions", json=chat(text)).json()["choices"][0]["message"]["content"]


def test_a_request_goes_from_added_to_changed_to_withdrawn(serve):
    world = serve()
    with world.client("admin") as client:
        before = said(client)
        added = client.post(
            "/v1/requests", json={"id": "r1", "subject": "Mara Olen", "statements": ["The baker bakes."]}
        )
        assert added.status_code == 201
        assert added.headers["x-expunge-epoch"] == str(added.json()["epoch"])
        assert (added.json()["status"], added.json()["in_force"], added.json()["claim"]) == (
            "active",
            True,
            "suppression",
        )
        assert said(client) == REFUSAL
        changed = client.put("/v1/requests/r1", json={"subject": "Tovin Brask"})
        assert (changed.status_code, changed.json()["version"]) == (200, 2)
        assert (said(client), said(client, "Who is Tovin Brask?")) == (before, REFUSAL)
        assert client.get("/v1/requests/r1").json()["request"]["subject"] == "Tovin Brask"
        assert client.get("/v1/requests/r1/evidence").json()["data"] == []
        gone = client.delete("/v1/requests/r1", params={"reason": "was wrong"})
        assert (gone.json()["status"], gone.json()["in_force"], gone.json()["request"]) == (
            "withdrawn",
            False,
            None,
        )
        assert said(client, "Who is Tovin Brask?") == before
        assert client.delete("/v1/requests/r1").status_code == 200, "again is the same"
        assert client.put("/v1/requests/r1", json={"subject": "Tovin Brask"}).status_code == 400
        events = [row["event"] for row in client.get("/v1/ledger", params={"about": "r1"}).json()["data"]]
        assert events == ["added", "changed", "withdrawn"]
        assert client.get("/v1/ledger/verify").json()["ok"] is True
        assert "Tovin" not in client.get("/v1/ledger").text


def test_the_same_key_adds_once(serve):
    world = serve()
    with world.client("admin") as client:
        headers = {"Idempotency-Key": "a"}
        first = client.post("/v1/requests", json={"subject": "Mara Olen"}, headers=headers).json()
        again = client.post("/v1/requests", json={"subject": "Mara Olen"}, headers=headers).json()
        other = client.post("/v1/requests", json={"subject": "Tovin Brask"}, headers=headers)
        assert first["id"] == again["id"]
        assert other.status_code == 400
        assert len(client.get("/v1/requests").json()["data"]) == 1


def test_a_tenant_sees_and_binds_itself_alone(serve):
    world = serve()
    everybodys = world.add("Jola Reed")
    with world.client("acme") as acme, world.client("other") as other, world.client("admin") as admin:
        mine = acme.post("/v1/requests", json={"subject": "Mara Olen"}).json()
        assert mine["tenant"] == "acme"
        assert "request" not in mine, "texts are for administrators"
        assert (
            acme.post("/v1/requests", json={"subject": "Tovin Brask", "tenant": "other"}).status_code == 403
        )
        assert said(acme) == REFUSAL
        assert said(other) != REFUSAL
        assert said(other, "Who is Jola Reed?") == REFUSAL
        for id in (mine["id"], everybodys.id):
            for method, path in (("GET", ""), ("GET", "/evidence"), ("DELETE", "")):
                response = other.request(method, f"/v1/requests/{id}{path}")
                unknown = other.request(method, f"/v1/requests/nosuch{path}")
                assert (response.status_code, response.json()) == (404, unknown.json())
            assert other.put(f"/v1/requests/{id}", json={"subject": "Mara Olen"}).status_code == 404
        assert other.get("/v1/requests").json()["data"] == []
        assert other.get("/v1/requests", params={"tenant": "acme"}).json()["data"] == []
        assert [e["id"] for e in acme.get("/v1/requests").json()["data"]] == [mine["id"]]
        assert len(admin.get("/v1/requests").json()["data"]) == 2
        assert [e["id"] for e in admin.get("/v1/requests", params={"tenant": "acme"}).json()["data"]] == [
            mine["id"]
        ]
        rows = acme.get("/v1/ledger").json()["data"]
        assert {row["tenant"] for row in rows} == {"acme"}
        assert mine["id"] not in other.get("/v1/ledger").text


def test_lists_come_in_pages(serve):
    world = serve()
    ids = [world.add(f"Person{letter * 5} Known").id for letter in "abcde"]
    world.ledger.withdraw(ids[4], actor="test")
    with world.client("admin") as client:
        first = client.get("/v1/requests", params={"limit": 2}).json()
        assert ([e["id"] for e in first["data"]], first["has_more"]) == (ids[:2], True)
        rest = client.get("/v1/requests", params={"after": ids[1]}).json()
        assert ([e["id"] for e in rest["data"]], rest["has_more"]) == (ids[2:], False)
        active = client.get("/v1/requests", params={"status": "active"}).json()
        assert [e["id"] for e in active["data"]] == ids[:4]
        assert client.get("/v1/requests", params={"status": "novel"}).status_code == 400
        assert client.get("/v1/requests", params={"after": "nosuch"}).status_code == 400
        history = client.get("/v1/ledger", params={"limit": 3}).json()
        assert history["has_more"] is True
        assert len(history["data"]) == 3


@pytest.mark.parametrize(
    "body",
    [
        {}, {"subject": ""}, {"subject": "M"}, {"subject": "Mara Olen", "novel": 1}, {"subject": "Mara Olen", "action": "explode"},
        {"subject": "Mara Olen", "action": {"name": "refuse", "novel": 1}}, {"subject": "Mara Olen", "action": "os:system"},
        {"subject": "Mara Olen", "action": {}}, {"subject": "Mara Olen", "action": "uld"}, {"subject": "Mara Olen", "method": "eco"},
        {"subject": "Mara Olen", "expires": "2001-01-01"}, {"subject": "Mara Olen", "expires": "soon"}, {"subject": 5}, [], "x", None,
        {"subject": "Mara Olen", "id": "mara"}, {"subject": "Mara Olen", "id": "../x"}, {"subject": "Mara Olen", "scope": {"all": True}},
        {"subject": "Mara Olen", "scope": {"input": False, "context": False, "output": False}}, {"aliases": ["Olly"]},
        {"subject": "Mara Olen", "tenant": "a b"},
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_enforced_is_refused_and_not_kept(serve_once, body):
    with serve_once.client("admin") as client:
        before = len(client.get("/v1/ledger").json()["data"])
        response = client.post("/v1/requests", json=body)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert len(client.get("/v1/ledger").json()["data"]) == before


def test_half_a_character_is_in_no_request(serve_once):
    body = json.dumps({"subject": "Mara \ud800 Olen"})
    with serve_once.client("admin") as client:
        response = client.post("/v1/requests", content=body, headers={"content-type": "application/json"})
        whole = client.post("/v1/requests", json={"subject": "Mara \U0001f600 Olen"})
        assert (response.status_code, whole.status_code) == (400, 201)
        client.delete(f"/v1/requests/{whole.json()['id']}")


def test_a_request_for_later_is_pending_until_then(serve):
    world = serve()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    with world.client("admin") as client:
        added = client.post("/v1/requests", json={"subject": "Mara Olen", "effective": later}).json()
        assert (added["status"], added["in_force"]) == ("pending", False)
        assert said(client) != REFUSAL


def test_an_id_that_is_taken_is_told_as_a_mistake(serve):
    world = serve()
    with world.client("admin") as client:
        for subject, status in (("Mara Olen", 201), ("Mara Olen", 201), ("Tovin Brask", 400)):
            assert client.post("/v1/requests", json={"id": "r1", "subject": subject}).status_code == status


def test_a_server_without_keys_answers_to_this_machines_names_alone(tmp_path):
    world = make_world(tmp_path, no_auth=True)
    with served(world.app) as world.url, world.client("") as client:
        assert client.get("/v1/requests").status_code == 200
        assert said(client)
        rebound = client.get("/v1/requests", headers={"Host": "evil.example:80"})
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "wrong_host")
        from_a_page = client.post(
            "/v1/requests", content='{"subject": "Mara Olen"}', headers={"content-type": "text/plain"}
        )
        assert from_a_page.status_code == 400
    world.ledger.close()


def test_requests_are_listed_from_either_end_page_by_page_and_without_their_texts(serve):
    world = serve()
    names = ["Mara Olen", "Tovin Brask", "Jola Reed"]
    ids = [world.add(name).id for name in names]
    with world.client("admin") as client, world.client("reader") as reader:

        def listed(who=client, **query):
            return who.get("/v1/requests", params=query)

        assert [found["id"] for found in listed().json()["data"]] == ids
        page = listed(order="newest", limit=2).json()
        assert ([found["id"] for found in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
        rest = listed(order="newest", limit=2, after=ids[1]).json()
        assert ([found["id"] for found in rest["data"]], rest["has_more"]) == ([ids[0]], False)
        assert listed(order="other").status_code == 400
        assert not any(name in listed().text for name in names), "only when they are asked for"
        told = listed(texts="true").json()["data"]
        assert [found["request"]["subject"] for found in told] == names
        assert listed(reader).status_code == 200
        assert listed(reader, texts="true").status_code == 403
