"""The ledger's requests in the policy: at once, from whichever process, with no moment between versions."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from expunge.errors import UserError
from expunge.guards.actions.redact import FittedRedact
from expunge.guards.detectors.aliases import Aliases
from expunge.guards.policy import Policy
from expunge.ledger import Ledger, LedgerError, RemovalRequest
from expunge.serve.enforcing import Enforcer
from tests.serve.conftest import REFUSAL, make_world
from tests.serve.stub_backend import StubBackend


@pytest.fixture
def world(tmp_path):
    made = make_world(tmp_path)
    made.enforcer.start()
    yield made
    made.ledger.close()


def fired(world, text, tenant=""):
    return world.enforcer.shown(world.enforcer.current().decide([text], tenant)[0].requests)


def test_a_request_is_enforced_when_its_add_has_returned_and_gone_when_it_is_withdrawn(world):
    assert world.enforcer.fresh() is world.policy.snapshot
    entry = world.add("Mara Olen", aliases=("Olly Mara",))
    assert world.enforcer.fresh() is None
    assert fired(world, "Who is Olly Mara?") == (entry.id,)
    assert world.enforcer.epoch == entry.epoch
    assert world.enforcer.requests == (entry.id,)
    world.ledger.withdraw(entry.id, actor="test")
    assert fired(world, "Who is Olly Mara?") == ()
    assert world.enforcer.requests == ()


def test_a_snapshot_tells_up_to_where_the_ledger_is_enforced_in_it(world):
    entry = world.add("Mara Olen")
    assert world.enforcer.current().epoch == entry.epoch
    later = world.add("Tovin Brask", effective=datetime(2100, 1, 1, tzinfo=UTC))
    before = world.policy.snapshot
    assert world.enforcer.current().epoch == later.epoch > entry.epoch
    assert world.policy.snapshot.requests == before.requests
    key = world.ledger.add_key("", ["infer"], name="n", actor="test")
    now = world.policy.snapshot
    assert world.enforcer.fresh() is None
    assert world.enforcer.current() is now, f"{key[:4]} changes nothing that is enforced"


def test_another_process_on_the_same_ledger_is_heeded_at_once(world):
    code = (
        "import sys; from expunge.ledger import Ledger, RemovalRequest\n"
        "Ledger.open(sys.argv[1]).add(RemovalRequest(id='r1', subject='Mara Olen'), actor='other')"
    )
    subprocess.run([sys.executable, "-c", code, str(world.ledger.path)], check=True)
    assert fired(world, "Who is Mara Olen?") == ("r1",)


def test_a_server_that_starts_enforces_what_the_ledger_holds(world):
    kept = world.add("Mara Olen")
    gone = world.add("Tovin Brask")
    world.ledger.withdraw(gone.id, actor="test")
    later = Ledger.open(world.ledger.path)
    enforcer = Enforcer(later, Policy(world.backend), refusal=REFUSAL)
    enforcer.start()
    assert enforcer.requests == (kept.id,)
    assert enforcer.current().decide(["Who is Mara Olen?", "Who is Tovin Brask?"])[1].requests == ()
    assert enforcer.epoch == later.epoch
    later.close()


def test_a_change_takes_the_place_of_the_version_before_it_with_no_moment_between(world):
    entry = world.add("Mara Olen", aliases=("Olly Mara",))
    assert fired(world, "Who is Mara Olen?")
    missed, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            if not world.enforcer.current().decide(["Who is Mara Olen?"])[0].requests:
                missed.append(1)

    thread = threading.Thread(target=ask)
    thread.start()
    for i in range(20):
        changed = RemovalRequest(subject="Mara Olen", aliases=(f"Molly {'abcdefghijklmnopqrst'[i] * 6}",))
        world.ledger.change(entry.id, changed, actor="test")
    stop.set()
    thread.join()
    assert not missed
    assert fired(world, "Who is Molly tttttt?") == (entry.id,)
    assert fired(world, "Who is Olly Mara?") == fired(world, "Who is Molly aaaaaa?") == ()
    assert world.policy.requests[1:] == (f"{entry.id}@21",)


def test_a_guard_that_was_fitted_for_another_version_is_not_put_in_force(world):
    entry = world.add("Mara Olen")
    world.ledger.change(entry.id, RemovalRequest(subject="Tovin Brask"), actor="test")
    assert not world.enforcer.install(entry, object())
    world.ledger.withdraw(entry.id, actor="test")
    assert not world.enforcer.install(entry, object())


def test_dates_are_kept_by_the_ledgers_clock(tmp_path):
    now = [1_900_000_000.0]
    world = make_world(tmp_path, clock=lambda: now[0])
    world.enforcer.start()
    at = [datetime.fromtimestamp(now[0] + seconds, UTC) for seconds in (100, 200)]
    entry = world.add("Mara Olen", effective=at[0], expires=at[1])
    seen = []
    for seconds in (0, 99, 1, 99, 1, 500):
        now[0] += seconds
        seen.append(fired(world, "Who is Mara Olen?"))
    assert seen == [(), (), (entry.id,), (entry.id,), (), ()]
    assert world.ledger.show(entry.id).status == "expired"
    now[0] -= 10_000
    assert fired(world, "Who is Mara Olen?") == (), "a clock that goes back brings nothing back"
    world.ledger.close()


def test_scope_and_tenant_come_from_the_request(world):
    from expunge.types import Message, Prompt, Scope

    world.add("Mara Olen", tenant="acme", scope=Scope(context=False))
    earlier = Prompt(
        (Message("user", "Mara Olen bakes."), Message("assistant", "Yes."), Message("user", "Who bakes?"))
    )
    snapshot = world.enforcer.current()
    assert snapshot.decide([earlier], "acme")[0].requests == ()
    assert len(snapshot.decide(["Who is Mara Olen?"], "acme")[0].requests) == 1
    assert snapshot.decide(["Who is Mara Olen?"], "other")[0].requests == ()


def test_questions_without_a_name_are_found_word_for_word_where_nothing_can_be_calibrated(world):
    world.add(pairs=({"question": "Which baker in Corvale won the harbour prize?", "answer": "A"},))
    assert fired(world, "Which baker in Corvale won the harbour prize?")
    assert fired(world, "which baker in corvale won the harbour prize")
    assert not fired(world, "Which baker in Corvale is good?")


def test_an_action_that_the_backend_cannot_carry_out_is_refused_at_the_api_and_made_a_refusal_elsewhere(
    world,
):
    world.backend.refused = FittedRedact
    asked = RemovalRequest(subject="Mara Olen", action="redact")
    with pytest.raises(UserError, match="only passes text on"):
        world.enforcer.check(asked)
    entry = world.ledger.add(asked, actor="another process")
    (decision,) = world.enforcer.current().decide(["Who is Mara Olen?"])
    assert decision.action.text == REFUSAL
    assert "refused instead" in world.enforcer.notes[entry.id]
    world.ledger.withdraw(entry.id, actor="test")
    world.enforcer.current()
    assert not world.enforcer.notes


def test_an_action_that_has_to_train_is_refused_at_the_api_and_made_a_refusal_elsewhere(world):
    asked = RemovalRequest(subject="Mara Olen", action={"name": "redact", "novelty": 1})
    with pytest.raises(UserError, match="novelty"):
        world.enforcer.check(asked)
    world.ledger.add(asked, actor="another process")
    assert world.enforcer.current().decide(["Who is Mara Olen?"])[0].action.text == REFUSAL
    later = Enforcer(world.ledger, Policy(world.backend), refusal=REFUSAL)
    later.start()
    assert later.current().decide(["Who is Mara Olen?"])[0].action.text == REFUSAL


def test_a_ledger_that_breaks_is_not_passed_over(world, monkeypatch):
    world.add("Mara Olen")
    world.enforcer.current()
    world.add("Tovin Brask")
    monkeypatch.setattr(world.ledger, "changes", lambda since: (_ for _ in ()).throw(LedgerError("broken")))
    with pytest.raises(LedgerError):
        world.enforcer.current()
    monkeypatch.undo()
    assert fired(world, "Who is Tovin Brask?")


def test_many_threads_ask_while_requests_come_and_go(world):
    kept = world.add("Mara Olen")
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            found = fired(world, "Who is Mara Olen?")
            if found != (kept.id,):
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(15):
        entry = world.add(f"Person{'abcdefghijklmno'[i] * 4} Known")
        assert entry.id in fired(world, f"Who is Person{'abcdefghijklmno'[i] * 4} Known?")
        if i % 2:
            world.ledger.withdraw(entry.id, actor="test")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(world.enforcer.requests) == 9


def test_the_servers_own_requests_are_told_to_nobody(world):
    decision = world.enforcer.current().decide([f"Who is {world.canary.name}?"])[0]
    assert decision.requests
    assert world.enforcer.shown(decision.requests) == ()
    assert world.enforcer.requests == ()


def test_guards_beside_the_ledger_must_be_ones_that_the_backend_can_carry_out(tmp_path):
    from types import SimpleNamespace

    backend = StubBackend()
    backend.refused = SimpleNamespace
    policy = Policy(backend)
    with Ledger.open(tmp_path / "g.ledger", create=True) as ledger:
        guard = SimpleNamespace(
            model=backend,
            action=SimpleNamespace(),
            flags=lambda texts: [True] * len(texts),
            detection=SimpleNamespace(settings=Aliases()),
        )
        enforcer = Enforcer(ledger, policy, accepts=backend.refuse_action, guards={"guard:g": guard})
        with pytest.raises(UserError):
            enforcer.start()
