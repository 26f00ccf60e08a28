"""What stands in the files, and which files are refused."""

import base64
import os
import random
import sqlite3

import pytest

from expunge.ledger import Ledger, LedgerError, schema
from expunge.ledger.sealing import key_path
from expunge.ledger.store import verify_file
from tests.ledger.conftest import KEY, wanted

SECRETS = (b"Mara", b"Olen", b"Corvale", b"ticket 7")


def everything(path):
    return b"".join(
        file.read_bytes()
        for file in sorted(path.parent.glob(path.name + "*"))
        if not file.name.endswith(".key")
    )


def sealed(ledger, id):
    return ledger._db.execute(
        "SELECT sealed, wrapped FROM requests JOIN request_keys ON request = id WHERE id = ?", (id,)
    ).fetchone()


def test_no_text_stands_in_any_file_while_a_request_is_active(ledger, path):
    ledger.add(wanted(id="case-1", note="ticket 7", statements=("Olen lives in Corvale.",)), actor="ops")
    raw = everything(path)
    assert b"case-1" in raw
    assert not [secret for secret in SECRETS if secret in raw]


def test_neither_key_nor_sealed_text_is_left_anywhere_after_the_end_of_a_request(ledger, path, clock):
    """Many, so that the pages under them are parted and joined."""
    for number in range(80):
        long = tuple(f"Statement {i} on number {number}." for i in range(number % 40))
        ledger.add(wanted(f"Person Nr{number}", id=f"case-{number}", statements=long), actor="ops")
    parts = {f"case-{number}": sealed(ledger, f"case-{number}") for number in range(80)}
    order = random.Random(0).sample(list(parts), 40)
    for number, id in enumerate(order):
        if number % 2:
            ledger.withdraw(id, actor="ops")
        else:
            ledger.change(id, wanted("Tovin Brask"), actor="ops")
    raw = everything(path)
    left = [
        id
        for id in order
        for part in parts[id]
        if any(part[i : i + 16] in raw for i in range(0, len(part) - 15, 16))
    ]
    assert not left
    gone = ledger._db.execute("SELECT content, sealed FROM requests WHERE status = 'withdrawn'").fetchall()
    assert gone == [(None, None)] * 20, "nor what could be compared with a guess"
    assert all(parts[id][1] in raw for id in set(parts) - set(order))


def test_a_change_leaves_nothing_of_the_version_before(ledger, path):
    ledger.add(wanted(id="case-1"), actor="ops")
    body, key = sealed(ledger, "case-1")
    ledger.change("case-1", wanted("Tovin Brask"), actor="ops")
    assert key not in everything(path)
    assert body[:16] not in everything(path)


def test_expiry_leaves_nothing_either(ledger, path, clock):
    from datetime import UTC, datetime

    ledger.add(wanted(id="case-1", expires=datetime.fromtimestamp(clock.now + 5, UTC)), actor="ops")
    body, key = sealed(ledger, "case-1")
    assert key in everything(path)
    clock.now += 5
    assert ledger.active() == []
    assert key not in everything(path)
    assert body[:16] not in everything(path)


def test_what_a_reader_keeps_from_being_cleared_is_cleared_by_the_next_write(ledger, path, monkeypatch):
    monkeypatch.setattr("expunge.ledger.store.CLEARING", 1)
    ledger.add(wanted(id="case-1"), actor="ops")
    _, key = sealed(ledger, "case-1")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM history").fetchone()
    ledger.withdraw("case-1", actor="ops")
    reader.close()
    ledger.record("looked", actor="ops")
    assert key not in everything(path)


# --- keys -----------------------------------------------------------------------------------------------------------------------
def test_a_new_ledger_makes_its_key_for_the_owner_alone(path):
    with Ledger.open(path, create=True) as ledger:
        ledger.add(wanted(), actor="ops")
    assert key_path(path).stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600
    with Ledger.open(path) as ledger:
        assert ledger.active()[0].request.subject == "Mara Olen"
    for mode in (0o644, 0o640):
        key_path(path).chmod(mode)
        with pytest.raises(LedgerError, match="chmod 600"):
            Ledger.open(path)


def test_the_key_may_come_from_the_environment(path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_LEDGER_KEY", base64.b64encode(KEY).decode())
    Ledger.open(path, create=True).close()
    assert not key_path(path).exists()
    monkeypatch.setenv("EXPUNGE_LEDGER_KEY", "short")
    with pytest.raises(LedgerError, match="32 bytes in base64"):
        Ledger.open(path)


def test_without_its_key_a_ledger_is_not_opened_but_its_chain_can_be_verified(ledger, path):
    ledger.add(wanted(), actor="ops")
    with pytest.raises(LedgerError, match="its key is missing"):
        Ledger.open(path)
    with pytest.raises(LedgerError, match="another ledger's"):
        Ledger.open(path, key=bytes(32))
    found = verify_file(path)
    assert (found.ok, found.signed, found.entries) == (True, False, 2)


# --- files that are refused -----------------------------------------------------------------------------------------------------
def test_a_missing_ledger_is_never_made_in_silence(path):
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger.open(path)
    assert not list(path.parent.iterdir())
    path.with_name(path.name + "-wal").write_bytes(b"the last entries")
    with pytest.raises(LedgerError, match="the last entries may be in it"):
        Ledger.open(path, key=KEY, create=True)


def test_files_that_are_no_ledger_are_refused_and_left_as_they_are(path):
    other = path.with_name("other")
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE x (a)")
    db.close()
    for content, why in (
        (b"", "it was cut off"),
        (b"hello", "is no ledger"),
        (other.read_bytes(), "another program"),
    ):
        path.write_bytes(content)
        for create in (False, True):
            with pytest.raises(LedgerError, match=why):
                Ledger.open(path, key=KEY, create=create)
        assert path.read_bytes() == content
    with pytest.raises(LedgerError, match="has to be a file"):
        Ledger.open(path.parent, key=KEY)


def test_a_ledger_that_is_cut_or_overwritten_anywhere_is_refused_with_a_way_out(path, clock):
    with Ledger.open(path, key=KEY, create=True, clock=clock) as ledger:
        for number in range(20):
            ledger.add(wanted(f"Person Nr{number}"), actor="ops")
    whole = path.read_bytes()
    rng = random.Random(0)
    pages = len(whole) // 4096
    for page in range(1, pages):
        path.write_bytes(whole[: page * 4096 + rng.randrange(4096)])
        with pytest.raises(LedgerError, match="expunge request verify"):
            Ledger.open(path, key=KEY)
    unseen = 0
    for page in range(pages):
        start = page * 4096
        path.write_bytes(whole[:start] + rng.randbytes(4096) + whole[start + 4096 :])
        try:
            Ledger.open(path, key=KEY).close()
            unseen += 1
        except LedgerError:
            pass
    assert not unseen


def test_a_newer_ledger_is_refused(ledger, path):
    ledger._db.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="a ledger of version 99"):
        Ledger.open(path, key=KEY)


def test_an_older_ledger_is_brought_up_to_date_and_keeps_what_it_holds(path, clock, monkeypatch):
    whole = schema.MIGRATIONS[:]
    monkeypatch.setattr("expunge.ledger.rows.held", lambda db: iter(()))  # of a program that had no keys yet
    monkeypatch.setattr("expunge.ledger.history._check_objects", lambda held, state: None)
    schema.MIGRATIONS[:] = whole[:1]
    try:
        with Ledger.open(path, key=KEY, create=True, clock=clock) as ledger:
            entry = ledger.add(wanted(), actor="ops")
    finally:
        schema.MIGRATIONS[:] = whole
    monkeypatch.undo()
    with Ledger.open(path, key=KEY, clock=clock) as ledger:
        assert ledger.active() == [entry]
        assert [event.event for event in ledger.history()] == ["ledger made", "added", "migrated"]
        ledger.add_key("", ["infer"], name="app", actor="ops")
        assert ledger.verify().ok


def test_a_step_that_another_process_has_made_meanwhile_is_not_made_again(ledger, monkeypatch):
    real, before = schema._number, [len(schema.MIGRATIONS) - 1]
    monkeypatch.setattr(schema, "_number", lambda db, name: before.pop() if before else real(db, name))
    told = []
    schema.migrate(ledger._db, told.append)
    assert not told
    assert ledger.verify().ok


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(ledger, path):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(LedgerError, match="cannot be"):
            Ledger.open(path.with_name("b.ledger"), key=KEY, create=True)
    finally:
        path.parent.chmod(0o700)
