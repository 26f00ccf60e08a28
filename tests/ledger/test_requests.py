"""What a removal request may say."""

import pytest

from expunge.errors import ConfigError
from expunge.ledger import Pair, RemovalRequest
from tests.ledger.conftest import wanted


def refused(**values):
    with pytest.raises(ConfigError) as error:
        RemovalRequest.parse(values, "here")
    return str(error.value)


def test_a_request_is_rows_of_a_forget_set():
    rows = wanted(statements=("She lives in Corvale.",)).records()
    assert [row.shape for row in rows] == ["subject", "text", "pair"]
    assert {row.subject for row in rows} == {"Mara Olen"}
    assert all(row.aliases == ("Dr Mara Olen",) for row in rows)
    assert rows[2].question == "Where was Mara Olen born?"


def test_what_cannot_be_meant_is_refused_and_said_without_repeating_the_text():
    assert "asks for nothing" in refused()
    assert "asks for nothing" in refused(subject="  ")
    assert "fewer than two letters" in refused(subject="A.")
    assert "give the subject too" in refused(aliases=["Mara"], statements=["She lives."])
    assert "Did you mean 'refuse'" in refused(subject="Mara Olen", action="refus")
    assert "Did you mean 'subject'" in refused(subjct="Mara Olen")
    assert "no such action" in refused(subject="Mara Olen", action="os:system")
    assert "no such action" in refused(subject="Mara Olen", action={"strength": 1})
    assert "hold nowhere" in refused(
        subject="Mara Olen", scope={"input": False, "context": False, "output": False}
    )
    assert "no 'inptu'" in refused(subject="Mara Olen", scope={"inptu": False})
    assert "before it is" in refused(subject="Mara Olen", effective="2030-01-02", expires="2030-01-01")
    assert "'pairs.0.question'" in refused(subject="Mara Olen", pairs=[{"question": " "}])
    for said in (
        refused(subject="Mara Olen", note=3),
        refused(subject="Mara Olen", id="!"),
        refused(subject="A.", id="x"),
    ):
        assert "Mara" not in said


def test_an_id_may_not_give_the_name_away():
    assert "'olen'" in refused(subject="Mara Olen", id="case-olen-7")
    assert RemovalRequest(subject="Mara Olen", id="case-7").id == "case-7"


def test_short_names_and_plain_words_are_doubted():
    assert RemovalRequest(subject="Mara Olen").doubts == ()
    assert "only 3 letters" in RemovalRequest(subject="Mara Olen", aliases=("Bob",)).doubts[0]
    assert "small letters" in RemovalRequest(subject="Mara Olen", aliases=("baker",)).doubts[0]


def test_times_without_a_zone_are_utc():
    given = RemovalRequest(
        subject="Mara Olen", expires="2030-01-01T12:00", effective="2029-01-01T12:00+02:00"
    )
    assert given.expires.isoformat() == "2030-01-01T12:00:00+00:00"
    assert given.effective.isoformat() == "2029-01-01T10:00:00+00:00"


def test_a_question_may_be_without_an_answer():
    assert Pair(question="Where?").answer == ""
