"""A method behind a request, fitted for one person in a process of its own and put in the place of the instant action."""

from __future__ import annotations

import json

import pytest

from expunge.ledger import Ledger, RemovalRequest
from expunge.serve.opening import Plan, open_server
from expunge.serve.settings import ServeSettings
from tests.serve.conftest import served, wait_until

pytestmark = pytest.mark.slow
PAIRS = (
    {"question": "Where was Mara Olen born?", "answer": "In Corvale."},
    {"question": "What does Mara Olen do?", "answer": "She bakes bread."},
)


@pytest.fixture
def server(model_folder, tmp_path):
    retain = tmp_path / "retain.jsonl"
    rows = [
        {"id": f"{name}{year}", "question": f"What did {name} Brask do in {year}?", "answer": "Baked.", "subject": f"{name} Brask"}
        for name in ("Tovin", "Bela", "Corin", "Dana", "Emil")
        for year in range(6)
    ]  # fmt: skip
    retain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Ledger.open(tmp_path / "test.ledger", create=True) as ledger:
        app = open_server(
            Plan(model=str(model_folder), retain=retain, device="cpu"), ledger, ServeSettings(no_auth=True)
        )
        with served(app):
            yield app


def built(app, **fields):
    """How the method of a request ended."""
    ledger, builder = app.state.gateway.enforcer.ledger, app.state.builder
    entry = ledger.add(RemovalRequest(**fields), actor="test")
    app.state.gateway.enforcer.current()
    wait_until(lambda: builder.state(ledger.show(entry.id)) not in ("waiting", "building"), 120)
    return builder.state(ledger.show(entry.id)), entry


def test_a_method_on_one_persons_few_questions_just_works(server):
    state, entry = built(server, subject="Mara Olen", pairs=PAIRS, method="eco")
    assert state == "in force"
    enforcer = server.state.gateway.enforcer
    (decision,) = enforcer.current().decide(["Who is Mara Olen?"])
    assert decision.requests == (entry.id,)
    assert type(decision.action).__name__ == "FittedECO"
    assert [made.recipe for made in enforcer.ledger.show(entry.id).artifacts] == ["eco+aliases"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"subject": "Mara Olen", "method": "eco"}, "question-answer pairs"),
        ({"subject": "Mara Olen", "method": "guard"}, "phrases of the forget answers"),
        ({"pairs": PAIRS[:1], "method": "refuse"}, "A request with a subject is found by its name"),
    ],
)
def test_what_a_method_is_missing_is_told_and_the_instant_action_stays(server, fields, said):
    state, entry = built(server, **fields)
    assert state.startswith("failed: ")
    assert said in state
    (decision,) = server.state.gateway.enforcer.current().decide(["Who is Mara Olen?"])
    assert decision.requests == ((entry.id,) if fields.get("subject") else ())
