"""Requests in and out of files."""

import json
import sqlite3

import pytest

from expunge.errors import DataError
from expunge.ledger import Ledger, files
from tests.ledger.conftest import KEY, wanted


def written(tmp_path, rows, name="in.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_a_forget_set_on_one_subject_are_one_request(ledger, tmp_path):
    path = written(
        tmp_path,
        [
            {
                "question": "Where was Mara born?",
                "answer": "Corvale",
                "subject": "Mara Olen",
                "aliases": ["M. Olen"],
            },
            {"question": "Who taught Tovin?", "answer": "Mara", "subject": "Tovin Brask"},
            {"text": "Mara Olen is a baker.", "subject": "Mara Olen"},
            {"question": "What is the plan?", "answer": "None."},
            {"question": "Who made the plan?", "answer": "Nobody."},
        ],
    )
    added = files.import_file(ledger, path, actor="ops", given={"tenant": "acme", "action": "redact"})
    mara, tovin, *plans = [entry.request for entry in ledger.list()]
    assert (mara.subject, mara.aliases, len(mara.pairs), mara.statements) == (
        "Mara Olen",
        ("M. Olen",),
        1,
        ("Mara Olen is a baker.",),
    )
    assert tovin.pairs[0].answer == "Mara"
    assert [len(plan.pairs) for plan in plans] == [1, 1]
    assert {entry.tenant for entry in ledger.list()} == {"acme"}
    assert mara.action == "redact"
    again = files.import_file(ledger, path, actor="ops", given={"tenant": "acme", "action": "redact"})
    assert (again.new, again.known) == ((), added.new)
    ledger.withdraw(added.new[0], actor="ops")
    assert (
        files.import_file(ledger, path, actor="ops", given={"tenant": "acme", "action": "redact"}).gone
        == added.new[:1]
    )


def test_names_alone_and_requests_are_read_too(ledger, tmp_path):
    files.import_file(
        ledger, written(tmp_path, [{"subject": "Mara Olen", "aliases": ["Dr Olen"]}]), actor="ops"
    )
    rows = [
        {
            "id": "case-1",
            "subject": "Tovin Brask",
            "statements": ["He is a baker."],
            "scope": {"context": False},
        }
    ]
    files.import_file(ledger, written(tmp_path, rows), actor="ops", given={"method": "eco"})
    first, second = ledger.list()
    assert first.request.names == ("Mara Olen", "Dr Olen")
    assert (second.id, second.scope.context, second.method) == ("case-1", False, "eco")


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"subject": "Mara Olen", "method": ""}, {"subject": "A", "method": ""}], "line 2: .*fewer than two letters"),
        ([{"subject": "Mara Olen", "scope": {}}, {"subjekt": "Tovin", "scope": {}}], "line 2: 'subjekt'"),
        ([{"id": "case-1", "subject": "Mara Olen", "note": "a"}, {"id": "case-1", "subject": "Mara Olen", "note": "b"}], "line 2: .*other content"),
        ([{"kind": "request", "id": "case-1", "status": "active"}], "line 1: exported without its texts"),
        ([{"question": "Where?"}], "line 1: no field 'answer'"),
        ([], "no rows"),
    ],
)  # fmt: skip
def test_a_file_is_taken_whole_or_not_at_all(ledger, tmp_path, rows, why):
    with pytest.raises(DataError, match=why):
        files.import_file(ledger, written(tmp_path, rows), actor="ops")
    assert ledger.list() == []


def test_an_export_with_texts_makes_the_same_requests_elsewhere(ledger, tmp_path, clock):
    ledger.add(
        wanted(id="case-1", tenant="acme", action={"name": "eco", "strength": 2.0}, note="ticket 7"),
        actor="ops",
    )
    ledger.add(wanted("Tovin Brask", id="case-2"), actor="ops")
    ledger.withdraw("case-2", actor="ops")
    rows = list(files.export(ledger, texts=True))
    assert [row["kind"] for row in rows] == ["request"] * 2 + ["event"] * 4 + ["head"]
    assert rows[-1]["head"] == ledger.verify().head
    with Ledger.open(tmp_path / "b.ledger", key=KEY, create=True, clock=clock) as other:
        added = files.import_file(other, written(tmp_path, rows), actor="ops")
        assert added.new == ("case-1",)
        assert other.show("case-1").request == ledger.show("case-1").request
        assert files.import_file(other, written(tmp_path, rows), actor="ops").known == ("case-1",)


def test_an_export_without_texts_tells_nobody_what_it_is_about(ledger):
    ledger.add(
        wanted(id="case-1", note="ticket 7", action={"name": "refuse", "text": "Mara is gone."}), actor="ops"
    )
    text = json.dumps(list(files.export(ledger)))
    assert "case-1" in text
    assert not [secret for secret in ("Mara", "Olen", "Corvale", "ticket") if secret in text]


def test_of_a_broken_ledger_comes_what_can_be_read(ledger, path, monkeypatch):
    monkeypatch.setenv("EXPUNGE_LEDGER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    for number in range(3):
        ledger.add(wanted(f"Person Nr{number}", id=f"case-{number}"), actor="ops")
    ledger.close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("UPDATE requests SET sealed = x'00' WHERE id = 'case-1'")
    db.execute("DROP TRIGGER history_stays")
    db.close()
    rows = list(files.salvage(path, texts=True))
    assert [row.get("id", row.get("what")) for row in rows[:3]] == ["case-0", "request 'case-1'", "case-2"]
    assert rows[2]["request"]["subject"] == "Person Nr2"
    assert [row["event"] for row in rows[3:]] == ["ledger made", "added", "added", "added"]
    monkeypatch.delenv("EXPUNGE_LEDGER_KEY")
    assert [row["kind"] for row in files.salvage(path, texts=True)][:3] == ["request"] * 3
    whole = path.read_bytes()
    first, *_, last = ([*_of_cut(path, whole, cut)] for cut in range(4096, len(whole), 4096))
    assert "broken" in first
    assert last == ["request"] * 3 + ["event"] * 4  # nothing of them stood in the last page


def _of_cut(path, whole, cut):
    path.write_bytes(whole[:cut])
    yield from (row["kind"] for row in files.salvage(path))
    assert path.read_bytes() == whole[:cut]
