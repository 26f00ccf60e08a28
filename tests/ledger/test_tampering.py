"""Whatever is changed behind the ledger's back is found, and said where."""

import sqlite3
from contextlib import contextmanager, suppress

import pytest

from expunge.ledger import Ledger, LedgerError, rows
from expunge.ledger.history import FIELDS, GENESIS, row_hash, verify
from expunge.ledger.sealing import Keyring
from expunge.ledger.store import verify_file
from tests.ledger.conftest import KEY, wanted

TABLES = ("history", "requests", "request_keys", "artifacts", "evidence", "access_keys", "meta")


@pytest.fixture
def filled(path, clock):
    """A small ledger in which everything happens once, without its triggers."""
    with Ledger.open(path, key=KEY, create=True, clock=clock) as ledger:
        ledger.add(wanted(id="case-1", tenant="acme"), actor="ops", idempotency="k")
        ledger.add(wanted("Tovin Brask", id="case-2"), actor="ops")
        ledger.record_artifact("case-1", "runs/7", "ab" * 32, "eco", actor="ops")
        ledger.record_evidence("case-1", "audit", "cd" * 32, {"any/run": 0.0}, "runs/7/a.json", actor="ops")
        ledger.add_key("acme", ["infer"], name="app", rpm=3, actor="ops")
        ledger.withdraw("case-2", actor="ops", reason="by mistake")
        ledger.record("server started", actor="ops", detail={"port": 8000})
    db = sqlite3.connect(path, isolation_level=None)
    db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    db.execute("PRAGMA ignore_check_constraints = ON")
    for trigger in ("history_stays", "history_keeps"):
        db.execute(f"DROP TRIGGER {trigger}")
    yield db
    db.close()


@contextmanager
def changed(db):
    """What is changed in here is taken back."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


def keys(db):
    ((name,),) = db.execute("SELECT value FROM meta WHERE name = 'ledger'")
    return Keyring(KEY, name)


def check(db, ring, known=""):
    return verify(db, ring, rows.held, known)


def flips(value):
    """The value with one of its bits turned, at many places; for none, something."""
    if value is None:
        yield 1
    elif isinstance(value, int):
        yield from (value ^ 1, value ^ 1 << 20)
    else:
        text = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        for place in range(len(text)):
            yield bytes((*text[:place], text[place] ^ 1, *text[place + 1 :]))
        yield text + b"x"


def test_a_bit_turned_in_any_column_of_any_row_is_found(filled):
    ring = keys(filled)
    assert check(filled, ring).ok
    tried = 0
    for table in TABLES:
        columns = [(name, kind) for _, name, kind, *_ in filled.execute(f"PRAGMA table_info({table})")]
        for row in filled.execute(f"SELECT rowid, * FROM {table}").fetchall():
            for (column, kind), value in zip(columns, row[1:], strict=True):
                for flipped in flips(value):
                    new = b"x" if value is None and kind != "INTEGER" else flipped
                    cast = "CAST(? AS TEXT)" if kind == "TEXT" else "?"
                    with changed(filled), suppress(sqlite3.IntegrityError):
                        filled.execute(f"UPDATE {table} SET {column} = {cast} WHERE rowid = ?", (new, row[0]))
                        tried += 1
                        found = check(filled, ring)
                        where = f"{table}.{column} of row {row[0]}: {new!r}"
                        assert not found.ok, where
                        if table == "history" and column != "seq":
                            assert found.broken_at == row[0], where
                        if (column, table) != ("mac", "history") and table != "meta":
                            assert not check(filled, None).ok, where
    assert tried > 3000


def test_rows_taken_away_are_found(filled):
    ring, last = keys(filled), filled.execute("SELECT max(seq) FROM history").fetchone()[0]
    for table in TABLES:
        for (rowid,) in filled.execute(f"SELECT rowid FROM {table}").fetchall():
            with changed(filled):
                filled.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
                found = check(filled, ring)
                assert not found.ok, (table, rowid)
                if table == "history":
                    assert found.broken_at == rowid
                    assert not check(filled, None).ok
    with changed(filled):
        filled.execute("DELETE FROM history WHERE seq > ?", (last - 2,))
        assert check(filled, ring).broken_at == last - 1


def test_rows_swapped_or_slipped_in_are_found(filled):
    ring = keys(filled)
    for a, b in ((2, 3), (3, 7)):
        with changed(filled):
            for old, new in ((a, -1), (b, a), (-1, b)):
                filled.execute("UPDATE history SET seq = ? WHERE seq = ?", (new, old))
            assert check(filled, ring).broken_at == a
            assert check(filled, None).broken_at == a
    with changed(filled):
        count = filled.execute("SELECT max(seq) FROM history").fetchone()[0]
        copy = ", ".join("?" if name == "seq" else name for name in FIELDS)
        filled.execute(f"INSERT INTO history SELECT {copy} FROM history WHERE seq = 3", (count + 1,))
        assert check(filled, ring).broken_at == count + 1
    with changed(filled):
        filled.execute(
            "INSERT INTO access_keys SELECT 'bad', name, '', 'admin', sha256, 1, 1, 1, NULL, NULL FROM access_keys"
        )
        assert "key 'bad' stands in the ledger" in check(filled, ring).why


def test_a_request_put_back_behind_the_ledgers_back_is_found(filled):
    with changed(filled):
        filled.execute("UPDATE requests SET status = 'withdrawn' WHERE id = 'case-1'")
        found = check(filled, None)
        assert (found.ok, found.broken_at) == (False, 2)
        assert "request 'case-1' is not as row 2 of the history says" in found.why


def test_a_key_that_belongs_to_no_request_is_found(filled):
    with changed(filled):
        filled.execute("INSERT INTO request_keys VALUES ('case-9', x'00')")
        assert "key of request 'case-9' stands in the ledger" in check(filled, None).why


def test_a_chain_made_anew_without_the_key_is_found_with_the_key_alone(filled):
    ring = keys(filled)
    with changed(filled):
        before = GENESIS
        filled.execute("UPDATE history SET actor = 'somebody else' WHERE seq = 2")
        for values in filled.execute(f"SELECT {', '.join(FIELDS)} FROM history ORDER BY seq").fetchall():
            row = dict(zip(FIELDS, values, strict=True))
            mac = row.pop("mac")
            row.pop("hash")
            row["prev"] = before
            found = row_hash(row)
            filled.execute("UPDATE history SET prev = ?, hash = ? WHERE seq = ?", (before, found, row["seq"]))
            before = found
        filled.execute("UPDATE meta SET value = ? WHERE name = 'head'", (f"{row['seq']}:{before}:{mac}",))
        assert check(filled, None).ok
        assert "signatures were not checked" in check(filled, None).why
        assert check(filled, ring).broken_at == 2


def test_an_older_copy_put_in_its_place_is_found_by_a_head_that_was_noted(path, clock):
    with Ledger.open(path, key=KEY, create=True, clock=clock) as ledger:
        ledger.add(wanted(), actor="ops")
        early = ledger.verify().head
    copy = path.read_bytes()
    with Ledger.open(path, key=KEY, clock=clock) as ledger:
        ledger.add(wanted("Tovin Brask"), actor="ops")
        late = ledger.verify().head
        assert ledger.verify(early).ok
        assert ledger.verify(late).ok
    path.write_bytes(copy)
    with Ledger.open(path, key=KEY, clock=clock) as ledger:
        assert ledger.verify().ok
        assert "that was noted" in ledger.verify(late).why


def test_the_history_cannot_be_changed_through_sql(ledger):
    ledger.add(wanted(), actor="ops")
    for statement in ("UPDATE history SET actor = 'x'", "DELETE FROM history"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            ledger._db.execute(statement)


def test_a_ledger_that_was_changed_is_not_opened_and_not_written(filled, path, clock):
    with pytest.raises(LedgerError, match="'history_keeps' is not as this program makes it"):
        Ledger.open(path, key=KEY)
    with pytest.raises(LedgerError, match="history_keeps"):
        verify_file(path)


def test_a_ledger_whose_end_is_cut_while_it_is_open_takes_no_more(ledger, path):
    ledger.add(wanted(), actor="ops")
    ledger.add(wanted("Tovin Brask"), actor="ops")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DROP TRIGGER history_keeps")
    db.execute("DELETE FROM history WHERE seq = 3")
    db.close()
    with pytest.raises(LedgerError, match="does not end where it ended"):
        ledger.add(wanted("Ada Third"), actor="ops")
