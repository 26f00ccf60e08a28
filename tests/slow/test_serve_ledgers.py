"""A server before a ledger that is broken, goes, or is put back, and before a clock that turns back: nothing is answered without the guard."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sqlite3
from datetime import UTC, datetime

import pytest

from expunge.ledger import Ledger
from tests.serve.conftest import REFUSAL, chat
from tests.serve.stub_backend import STORY, StubBackend
from tests.slow.serving_cases import (
    all_requests,
    expunge,
    fill,
    found,
    world_of,
)

pytestmark = pytest.mark.slow


# --- ledgers that a server does not start on ------------------------------------------------------------------------------------
def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def garbage(path):
    path.write_bytes(b"no ledger at all\n" * 500)


def another_programs(path):
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a)")
    db.close()


def of_another_key(path):
    path.with_name(path.name + ".key").write_bytes(base64.b64encode(bytes(32)))


def without_its_key(path):
    path.with_name(path.name + ".key").unlink()


def key_for_everybody(path):
    path.with_name(path.name + ".key").chmod(0o644)


def changed_behind_its_back(path):
    with sqlite3.connect(path) as db:
        db.execute("UPDATE requests SET action = 'redact'")
    db.close()


def page_overwritten(path):
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))


def gone(path):
    path.unlink()


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "way_out"),
    [(cut, "back-up|copy"), (empty, "back-up|copy"), (garbage, "back-up|copy"), (another_programs, "another program"),
     (of_another_key, "right one"), (without_its_key, "copy of the key"), (key_for_everybody, "chmod 600"),
     (changed_behind_its_back, "back-up|copy"), (page_overwritten, "back-up|copy"), (gone, "--ledger"), (a_folder, "has to be a file")],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_no_server_starts_on_a_ledger_that_is_not_whole_and_says_how_to_mend_it(
    model_folder, tmp_path, harm, way_out
):
    path = tmp_path / "a.ledger"
    fill(path, ["Mara Olen"])
    harm(path)
    before = path.read_bytes() if path.is_file() else None
    run = expunge("serve", model_folder, "--ledger", path, "--port", 0)
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("error: ")
    assert str(path) in run.stderr
    assert re.search(way_out, run.stderr), run.stderr
    assert "Traceback" not in run.stderr
    assert (path.read_bytes() if path.is_file() else None) == before, "it is never replaced"


# --- ledgers that break while they are served ---------------------------------------------------------------------------------
def taken_away(path, aside):
    path.rename(aside)


def replaced_by_another(path, aside):
    path.rename(aside)
    new = path.with_name("new.ledger")
    with Ledger.open(new, create=True, key=bytes(32)):
        pass
    new.rename(path)


def replaced_by_an_older_copy(path, aside):
    path.rename(aside)
    shutil.copy(path.with_name("older.ledger"), path)


@pytest.mark.parametrize("harm", [taken_away, replaced_by_another, replaced_by_an_older_copy])
def test_a_ledger_that_is_taken_away_or_replaced_stops_every_answer_until_it_is_back(tmp_path, harm):
    with world_of(tmp_path, StubBackend(pause=0.01)) as world, world.client("admin") as client:
        path = world.ledger.path
        with sqlite3.connect(tmp_path / "older.ledger") as copy, sqlite3.connect(path) as db:
            db.backup(copy)
        copy.close()
        db.close()
        world.add("Mara Olen")
        assert (
            client.post("/v1/chat/completions", json=chat("Who is Mara Olen?")).json()["choices"][0][
                "message"
            ]["content"]
            == REFUSAL
        )
        with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as stream:
            lines = stream.iter_lines()
            next(lines)
            harm(path, tmp_path / "aside")
            last = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][-1]
        assert last["error"]["code"] in ("guard_unavailable", "ledger_unavailable")
        for text in ("Who is Mara Olen?", "Tell me a story."):
            for stream in (False, True):
                reply = client.post("/v1/chat/completions", json=chat(text, stream=stream))
                assert reply.status_code == 503
                assert "Retry-After" in reply.headers
        assert client.post("/v1/requests", json={"subject": "Tovin Brask"}).status_code == 503, (
            "never acknowledged and lost"
        )
        assert client.get("/health").status_code == 503
        (tmp_path / "aside").replace(path)
        assert (
            client.post("/v1/chat/completions", json=chat()).json()["choices"][0]["message"]["content"]
            == STORY
        )
        assert (
            client.post("/v1/chat/completions", json=chat("Who is Mara Olen?")).json()["choices"][0][
                "message"
            ]["content"]
            == REFUSAL
        )
        assert client.get("/health").status_code == 200
        assert client.get("/v1/ledger/verify").json()["ok"]


def test_a_ledger_that_goes_back_in_place_stops_every_answer(tmp_path):
    with world_of(tmp_path) as world, world.client("admin") as client:
        path = world.ledger.path
        older = sqlite3.connect(tmp_path / "older.ledger")
        with sqlite3.connect(path) as db:
            db.backup(older)
        world.add("Mara Olen")
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        older.backup(db)
        db.close()
        older.close()
        assert client.post("/v1/chat/completions", json=chat()).status_code == 503
        assert client.post("/v1/chat/completions", json=chat("Who is Mara Olen?")).status_code == 503


def test_a_ledger_that_is_cut_off_under_a_server_loses_no_guard_and_takes_nothing_more(tmp_path):
    with world_of(tmp_path) as world, world.client("admin") as client:
        world.add("Mara Olen")
        assert client.post("/v1/chat/completions", json=chat()).status_code == 200
        os.truncate(world.ledger.path, 4096)
        for _ in range(3):
            reply = client.post("/v1/requests", json={"subject": "Tovin Brask"})
            assert reply.status_code == 503
            reply = client.post("/v1/chat/completions", json=chat("Who is Mara Olen?"))
            assert reply.status_code == 503 or reply.json()["choices"][0]["message"]["content"] == REFUSAL
            assert client.get("/v1/ledger/verify").status_code == 503


# --- time ---------------------------------------------------------------------------------------------------------------------
def test_a_clock_that_goes_back_brings_nothing_back_and_takes_nothing_away(tmp_path):
    now = [1_900_000_000.0]

    def at(seconds):
        return datetime.fromtimestamp(now[0] + seconds, UTC).isoformat()

    with world_of(tmp_path, clock=lambda: now[0]) as world, world.client("admin") as client:

        def add(name, **more):
            reply = client.post("/v1/requests", json={"subject": name, **more})
            assert reply.status_code == 201, reply.text
            return reply.json()["id"]

        stays, over, ahead = (
            add("Mara Olen"),
            add("Tovin Brask", expires=at(100)),
            add("Ilsa Venn", effective=at(100)),
        )
        back = add("Corin Hale")
        client.delete(f"/v1/requests/{back}")
        now[0] += 150
        for seconds in (0, -10_000, -1_000_000, 2_000_000):
            now[0] += seconds
            assert found(client, "Mara Olen") == [stays]
            assert found(client, "Tovin Brask") == []
            assert found(client, "Ilsa Venn") == [ahead], "what has come into force stays so"
            assert found(client, "Corin Hale") == []
            new = add("Nessa Dorn")
            assert found(client, "Nessa Dorn") == [new]
            client.delete(f"/v1/requests/{new}")
            assert found(client, "Nessa Dorn") == []
            states = {id: row["status"] for id, row in all_requests(client).items()}
            wanted = {stays: "active", over: "expired", ahead: "active", back: "withdrawn", new: "withdrawn"}
            assert {id: states[id] for id in wanted} == wanted
            assert client.get("/v1/ledger/verify").json()["ok"]
            reply = client.post("/v1/chat/completions", json=chat("Who is Mara Olen?"))
            assert reply.json()["choices"][0]["message"]["content"] == REFUSAL
