"""The life of a removal request in the ledger."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from expunge.errors import ConfigError, DataError
from expunge.ledger import Ledger, LedgerError, RemovalRequest
from expunge.ledger.access import key_id
from expunge.types import Scope
from tests.ledger.conftest import KEY, START, wanted


def at(seconds):
    return datetime.fromtimestamp(START + seconds, UTC)


def events(ledger, request=None):
    return [event.event for event in ledger.history(request=request)]


def test_what_is_added_is_in_force_and_comes_back_as_it_was(ledger, path):
    request = wanted(
        tenant="acme",
        scope=Scope(context=False),
        action={"name": "eco", "strength": 2.0},
        method="eco",
        note="ticket 7",
    )
    entry = ledger.add(request, actor="ops")
    assert (entry.status, entry.version, entry.tenant, entry.scope) == (
        "active",
        1,
        "acme",
        Scope(context=False),
    )
    assert entry.request == request.model_copy(update={"id": entry.id})
    assert entry.action == {"name": "eco", "strength": 2.0}
    ledger.close()
    with Ledger.open(path, key=KEY) as again:
        assert again.active() == [entry]
        assert again.show(entry.id) == entry


def test_adding_the_same_again_adds_nothing(ledger):
    first = ledger.add(wanted(id="case-1"), actor="ops", idempotency="k")
    assert ledger.add(wanted(id="case-1"), actor="ops") == first
    assert ledger.add(wanted(), actor="ops", idempotency="k") == first
    assert events(ledger) == ["ledger made", "added"]
    with pytest.raises(DataError, match="with other content"):
        ledger.add(wanted("Tovin Brask", id="case-1"), actor="ops")
    with pytest.raises(DataError, match="idempotency key"):
        ledger.add(wanted("Tovin Brask"), actor="ops", idempotency="k")
    with pytest.raises(DataError, match="idempotency key"):
        ledger.add(wanted(id="case-2"), actor="ops", idempotency="k")
    assert (
        ledger.add(wanted(tenant="acme"), actor="ops", idempotency="k").id != first.id
    )  # another tenant's own


def test_a_change_is_a_new_version_and_the_old_texts_are_gone(ledger):
    entry = ledger.add(wanted(id="case-1"), actor="ops")
    changed = ledger.change("case-1", wanted("Tovin Brask"), actor="ops")
    assert (changed.version, changed.request.subject) == (2, "Tovin Brask")
    assert changed.epoch > entry.epoch
    assert ledger.change("case-1", wanted("Tovin Brask"), actor="ops") == changed
    with pytest.raises(DataError, match="cannot become another's"):
        ledger.change("case-1", wanted("Tovin Brask", tenant="acme"), actor="ops")
    with pytest.raises(DataError, match="holds 'case'"):
        ledger.change("case-1", wanted("Case Brask"), actor="ops")
    with pytest.raises(DataError, match="no request 'other'"):
        ledger.change("other", wanted(), actor="ops")


def test_withdrawing_destroys_the_request_and_its_id_is_used_up(ledger):
    ledger.add(wanted(id="case-1"), actor="ops", idempotency="k")
    with pytest.raises(DataError, match="holds 'mara'"):
        ledger.withdraw("case-1", actor="ops", reason="Mara asked")
    gone = ledger.withdraw("case-1", actor="ops", reason="added by mistake")
    assert (gone.status, gone.request, gone.action) == ("withdrawn", None, "refuse")
    assert ledger.active() == []
    assert ledger.withdraw("case-1", actor="ops") == gone
    assert ledger.history(request="case-1")[-1].detail == {"reason": "added by mistake"}
    assert (
        ledger.add(wanted(), actor="ops", idempotency="k") == gone
    )  # a late repetition does not add it again
    with pytest.raises(DataError, match="cannot be used again"):
        ledger.add(wanted(id="case-1"), actor="ops")
    with pytest.raises(DataError, match="is withdrawn"):
        ledger.change("case-1", wanted(), actor="ops")
    assert ledger.verify().ok


def test_time_brings_requests_into_force_and_ends_them(ledger, clock):
    ledger.add(wanted(id="case-1", effective=at(10), expires=at(20)), actor="ops")
    ledger.add(wanted("Tovin Brask", id="case-2"), actor="ops")
    assert ledger.show("case-1").status == "pending"
    assert [entry.id for entry in ledger.active()] == ["case-2"]
    assert ledger.next_change() == START + 10
    before = ledger.epoch
    clock.now += 10
    assert [entry.id for entry in ledger.active()] == ["case-1", "case-2"]
    assert [(entry.id, entry.status) for entry in ledger.changes(before)] == [("case-1", "active")]
    assert ledger.next_change() == START + 20
    clock.now += 10
    assert [(entry.id, entry.status, entry.request) for entry in ledger.changes(before)] == [
        ("case-1", "expired", None)
    ]
    assert ledger.next_change() is None
    assert events(ledger, "case-1") == ["added", "in force", "expired"]
    for seconds in (5, 20):
        with pytest.raises(DataError, match="that is past"):
            ledger.add(wanted(id="case-3", expires=at(seconds)), actor="ops")
    assert ledger.verify().ok


def test_what_is_to_hold_from_now_on_is_in_force_from_the_first(ledger):
    assert ledger.add(wanted(id="case-1", effective=at(0)), actor="ops").status == "active"
    assert events(ledger, "case-1") == ["added"]


def test_what_came_into_force_and_expired_while_nobody_looked_is_told_in_order(ledger, clock):
    ledger.add(wanted(id="case-1", effective=at(10), expires=at(20)), actor="ops")
    clock.now += 100
    ledger.add(wanted("Tovin Brask", id="case-2"), actor="ops")
    assert events(ledger)[1:] == ["added", "in force", "expired", "added"]


def test_a_clock_that_goes_back_does_not_take_the_ledger_back(ledger, clock):
    ledger.add(wanted(id="case-1", expires=at(50)), actor="ops")
    clock.now += 60
    ledger.record("server started", actor="ops")
    clock.now -= 30
    assert ledger.show("case-1").status == "expired"
    assert ledger.add(wanted("Tovin Brask", effective=at(59)), actor="ops").status == "active"
    rows = ledger.history()
    assert [row.at for row in rows] == sorted(row.at for row in rows)
    assert rows[-1].detail["clock_behind_s"] == 30.0
    assert "clock_behind_s" not in rows[-2].detail
    assert ledger.verify().ok


def test_changes_are_those_after_an_epoch(ledger):
    first = ledger.add(wanted(id="case-1"), actor="ops")
    ledger.record("server started", actor="ops")
    assert ledger.epoch == first.epoch
    ledger.add(wanted("Tovin Brask", id="case-2"), actor="ops")
    ledger.withdraw("case-1", actor="ops")
    assert [(entry.id, entry.status) for entry in ledger.changes(first.epoch)] == [
        ("case-2", "active"),
        ("case-1", "withdrawn"),
    ]
    assert ledger.changes(ledger.epoch) == []


def test_tenants_see_their_own_page_by_page(ledger):
    for number in range(6):
        ledger.add(wanted(f"Person Nr{number}", id=f"case-{number}", tenant="ab"[number % 2]), actor="ops")
    assert [entry.id for entry in ledger.list("a")] == ["case-0", "case-2", "case-4"]
    assert [entry.id for entry in ledger.list("a", limit=1, after="case-0")] == ["case-2"]
    ledger.withdraw("case-1", actor="ops")
    assert [entry.id for entry in ledger.list(status="withdrawn")] == ["case-1"]
    assert ledger.show("case-0", "a").tenant == "a"
    for look in (
        lambda: ledger.show("case-0", "b"),
        lambda: ledger.show("case-9"),
        lambda: ledger.list("b", after="case-0"),
    ):
        with pytest.raises(DataError, match="there is no request"):
            look()


def test_artifacts_and_evidence_belong_to_a_version_and_hold_no_name(ledger):
    ledger.add(wanted(id="case-1"), actor="ops")
    ledger.record_artifact("case-1", "runs/7", "ab" * 32, "eco", actor="ops")
    ledger.record_evidence(
        "case-1",
        "audit",
        "cd" * 32,
        {"claim": "suppression", "any/run": 0.0},
        "runs/7/audit.json",
        actor="ops",
    )
    entry = ledger.show("case-1")
    assert [made.folder for made in entry.artifacts] == ["runs/7"]
    assert entry.evidence[0].summary == {"claim": "suppression", "any/run": 0.0}
    assert ledger.active() == [entry]
    other = ledger.add(wanted("Tovin Brask", id="case-2"), actor="ops")
    ledger.record_artifact("case-2", "runs/8", "ab" * 32, "eco", actor="ops")
    assert ledger.active() == [entry, ledger.show("case-2")] != [entry, other]
    with pytest.raises(DataError, match="names its subject"):
        ledger.record_artifact("case-1", "runs/mara_olen", "ab" * 32, "eco", actor="ops")
    ledger.change("case-1", wanted("Tovin Brask"), actor="ops")
    assert ledger.show("case-1").artifacts == ()
    with pytest.raises(DataError, match="at version 2; this is for version 1"):
        ledger.record_artifact("case-1", "runs/7", "ab" * 32, "eco", actor="ops", version=1)
    ledger.withdraw("case-1", actor="ops")
    with pytest.raises(DataError, match="is withdrawn"):
        ledger.record_evidence("case-1", "audit", "cd" * 32, {}, "x", actor="ops")
    assert ledger.verify().ok


def test_the_ledgers_own_events_cannot_be_made_up(ledger):
    with pytest.raises(ValueError, match="of the ledger's own"):
        ledger.record("withdrawn", actor="ops", request="case-1")


def test_data_version_changes_with_every_write_of_anybody(ledger, path, clock):
    with Ledger.open(path, key=KEY, clock=clock) as other:
        seen = ledger.data_version()
        assert ledger.data_version() == seen
        ledger.add(wanted(), actor="ops")
        own = ledger.data_version()
        assert own != seen
        other.record("server started", actor="ops")
        theirs = ledger.data_version()
        assert theirs != own
        assert ledger.data_version() == theirs


def test_opening_many_texts_keeps_nobody_from_asking_what_has_changed(ledger, monkeypatch):
    ledger.add(wanted(id="case-1"), actor="ops")
    seen, free = ledger.data_version(), []
    real = ledger._keys.unseal

    def unseal(*sealed):
        free.append(ledger._read_lock.acquire(blocking=False) and not ledger._read_lock.release())
        return real(*sealed)

    monkeypatch.setattr(ledger._keys, "unseal", unseal)
    assert ledger.list() == ledger.changes(0) == ledger.active()
    assert free == [True] * 3
    assert ledger.data_version() == seen


def test_a_broken_row_stops_what_reads_it(ledger):
    ledger.add(wanted(id="case-1"), actor="ops")
    ledger.add(wanted("Tovin Brask", id="case-2"), actor="ops")
    ledger._db.execute(
        "UPDATE requests SET sealed = (SELECT sealed FROM requests WHERE id = 'case-2') WHERE id = 'case-1'"
    )
    with pytest.raises(LedgerError, match="do not open"):
        ledger.active()
    assert ledger.show("case-2").status == "active"
    ledger._db.execute("UPDATE requests SET tenant = 'acme' WHERE id = 'case-2'")
    with pytest.raises(LedgerError, match="behind the ledger's back"):
        ledger.show("case-2")


def test_a_failed_write_leaves_nothing(ledger):
    with pytest.raises(DataError, match=r"row 2: .*past"):
        ledger.add_all(
            [("row 1", wanted(id="case-1")), ("row 2", wanted(id="case-2", expires=at(-5)))], actor="ops"
        )
    assert ledger.list() == []
    assert events(ledger) == ["ledger made"]


def test_many_threads_write_and_read_one_ledger(ledger):
    errors = []

    def work(number):
        try:
            for i in range(5):
                entry = ledger.add(wanted(f"Person Nr{number} Olen{i}"), actor=f"thread {number}")
                assert entry.request.subject == f"Person Nr{number} Olen{i}"
                ledger.changes(0)
                ledger.data_version()
                ledger.withdraw(entry.id, actor=f"thread {number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert ledger.verify() == ledger.verify()
    assert ledger.verify().entries == 1 + 4 * 5 * 2


# --- access keys ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [{"rpm": 0}, {"tpm": 0}, {"rpm": -1}])
def test_a_limit_that_would_count_as_none_is_refused(ledger, limit):
    with pytest.raises(DataError, match="at least 1"):
        ledger.add_key("acme", ["infer"], name="app", actor="ops", **limit)
    assert not ledger.keys()


def test_a_key_is_shown_once_and_known_by_its_digest(ledger, path):
    key = ledger.add_key("acme", ["infer", "logprobs"], name="app", rpm=60, actor="ops")
    assert key.startswith("exp_")
    found = ledger.find_key(key_id(key))
    assert (found.tenant, found.scopes, found.rpm, found.tpm) == ("acme", {"infer", "logprobs"}, 60, None)
    assert found.matches(key)
    assert not found.matches(key[:-1])
    assert not found.matches("")
    assert not found.matches("é\ud800")
    assert replace(found, expires=at(0)).matches(key)
    assert not replace(found, expires=datetime.fromtimestamp(0, UTC)).matches(key)
    assert not replace(found, revoked=at(0)).matches(key)
    assert "digest" not in found.describe()
    assert ledger.find_key("nobody") is None
    secret = key.rpartition(found.id)[2].encode()
    assert not any(secret in file.read_bytes() for file in path.parent.iterdir())


def test_a_key_that_is_revoked_or_over_opens_nothing(ledger, clock):
    key = ledger.add_key("", ["infer"], name="app", actor="ops")
    late = ledger.add_key("", ["infer"], name="app", expires=at(5), actor="ops")
    ledger.revoke_key(key_id(key), actor="ops")
    assert ledger.find_key(key_id(key)) is None
    clock.now += 1
    revoked = ledger.revoke_key(key_id(key), actor="ops").revoked
    assert revoked == at(0), "revoked once and for all"
    assert events(ledger).count("key revoked") == 1
    known = ledger.keys()
    assert sorted(found.revoked is None for found in known) == [False, True]
    assert ledger.find_key(key_id(late))
    clock.now += 4
    assert ledger.find_key(key_id(late)) is None
    assert ledger.verify().ok
    with pytest.raises(DataError, match="there is no key"):
        ledger.revoke_key("nobody")


def test_keys_have_known_scopes(ledger):
    with pytest.raises(ConfigError, match="Did you mean 'infer'"):
        ledger.add_key("", ["infr"], name="app", actor="ops")
    with pytest.raises(ConfigError, match="without scopes"):
        ledger.add_key("", [], name="app", actor="ops")


@pytest.mark.parametrize("text", ["", "exp_", "exp_ab", "sk-1", "exp__x", "Exp_ab_cd"])
def test_what_is_no_key_has_no_id(text):
    assert key_id(text) is None


def test_a_request_may_be_a_statement_alone(ledger):
    entry = ledger.add(RemovalRequest(statements=("The plan is off.",)), actor="ops")
    assert entry.request.names == ()
    assert ledger.show(entry.id).request.statements == ("The plan is off.",)
