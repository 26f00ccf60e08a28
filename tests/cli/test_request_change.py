"""Requests that are changed, reports that are filed, and ledgers that are not made for nothing."""

import json

import pytest

from expunge.errors import ConfigError, DataError, StorageError
from expunge.ledger import Ledger
from tests.cli.test_request import MARA, done, refused, run, said

FIGURE = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 40, "why": "", "note": ""}


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    path = tmp_path / "a.ledger"
    monkeypatch.setenv("EXPUNGE_LEDGER", str(path))
    return path


def test_a_change_keeps_what_no_option_names(ledger):
    done("request", "add", *MARA, "--id", "case-1", "--no-context", "--expires", "2099-01-01")
    done("request", "change", "case-1", "--method", "icul", "--no-output", "--alias", "M. Olen")
    with Ledger.open(ledger) as book:
        (entry,) = book.active()
    assert (entry.version, entry.method, entry.action) == (2, "icul", "refuse")
    assert (entry.scope.input, entry.scope.context, entry.scope.output) == (True, False, False)
    assert entry.request.aliases == ("M. Olen",)
    assert entry.request.statements == ("Mara Olen lives in Corvale.",)
    assert said("request", "change", "case-1", "--expires", "")["expires"] is None
    assert said("request", "change", "case-1", "--method", "", "--context")["method"] == ""


def test_a_change_of_nothing_or_of_what_is_gone_is_refused(ledger):
    done("request", "add", *MARA, "--id", "case-1")
    assert "nothing is to change" in refused(ConfigError, "request", "change", "case-1")
    assert "--set without --action" in refused(
        ConfigError, "request", "change", "case-1", "--set", "text=No."
    )
    assert "no request" in refused(DataError, "request", "change", "case-2", "--note", "x")
    done("request", "withdraw", "case-1")
    assert "withdrawn" in refused(DataError, "request", "change", "case-1", "--note", "x")
    assert "withdrawn already" in run("request", "withdraw", "case-1").stderr


def test_a_report_on_a_server_is_evidence(ledger, tmp_path):
    done("request", "add", *MARA, "--id", "case-1")
    report = tmp_path / "report.json"
    subject = {"name": "http://127.0.0.1:8000/v1#pocket", "sha256": "endpoint"}
    report.write_text(json.dumps({"subject": subject, "attacks": [], "figures": {"any/run": FIGURE}}))
    (filed,) = said("request", "evidence", "case-1", report)["evidence"]
    assert filed["kind"] == "audit"
    assert filed["summary"]["subject"] == subject["name"]
    assert filed["summary"]["figures"]["any/run"]["value"] == 0.25


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"x"',
        "{}",
        '{"figures": {}}',
        '{"subject": "x", "figures": {"any/run": 1}}',
        '{"a": 1}\n{"a": 2}',
    ],
)
def test_a_file_that_is_no_report_is_no_evidence(ledger, tmp_path, text):
    done("request", "add", *MARA, "--id", "case-1")
    file = tmp_path / "other.json"
    file.write_text(text)
    assert "is no report" in refused(DataError, "request", "evidence", "case-1", file)
    assert said("request", "show", "case-1")["evidence"] == []


@pytest.mark.parametrize(
    "words",
    [
        ["request", "add"],
        ["request", "add", *MARA, "--expires", "2020-01-01"],
        ["request", "import", "no-such-file.jsonl"],
        ["request", "verify"],
        ["key", "add", "--name", ""],
        ["key", "add", "--name", "a", "--scope", "infer,admin"],
        ["key", "add", "--name", "a", "--tenant", "a b"],
        ["key", "add", "--name", "a", "--expires", "2020-01-01"],
        ["serve", "m", "--engine", "tgi"],
        ["serve", "m", "--refusal", ""],
        ["serve", "m", "--set", "answer_seconds=-3"],
        ["serve", "--upstream", "http://127.0.0.1:99999/v1#m"],
        ["serve", "m", "--retain", "no-such-file.jsonl"],
        ["serve", "m", "--guards", "no-such-run"],
    ],
)  # fmt: skip
def test_what_cannot_work_makes_no_ledger(ledger, words):
    from expunge.errors import UserError

    assert isinstance(run(*words).exception, UserError)
    assert list(ledger.parent.iterdir()) == []


def test_a_key_is_revoked_by_itself_as_well(ledger):
    key = said("key", "add", "--name", "app\x1b[31m")["key"]
    assert "\x1b" not in done("key", "list")
    done("key", "revoke", key)
    assert said("key", "list")[0]["revoked"]


def test_an_export_says_what_stands_in_its_way(ledger, tmp_path):
    done("request", "add", *MARA)
    assert "is a folder" in refused(StorageError, "request", "export", "--out", tmp_path)
    assert "is there already" in refused(StorageError, "request", "export", "--out", ledger)
