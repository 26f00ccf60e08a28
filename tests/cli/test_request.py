"""`expunge request` and `expunge key` as a person meets them."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from expunge.cli import app
from expunge.errors import ConfigError, DataError
from expunge.ledger import Ledger, LedgerError

MARA = ("--subject", "Mara Olen", "--alias", "Dr Olen", "--statement", "Mara Olen lives in Corvale.")


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    path = tmp_path / "a.ledger"
    monkeypatch.setenv("EXPUNGE_LEDGER", str(path))
    return path


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def done(*arguments):
    found = run(*arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.stdout


def said(*arguments):
    return json.loads(done(*arguments, "--json"))


def refused(kind, *arguments):
    found = run(*arguments)
    assert isinstance(found.exception, kind), (found.output, found.exception)
    return str(found.exception)


def test_from_add_to_withdraw(ledger):
    found = run(
        "request",
        "add",
        *MARA,
        "--id",
        "case-1",
        "--tenant",
        "acme",
        "--expires",
        "2099-01-01",
        "--note",
        "ticket 7",
    )
    assert "made a new ledger" in found.stderr
    assert "case-1: active, version 1" in found.stdout
    assert "Mara" not in found.output
    assert (
        said(
            "request",
            "add",
            *MARA,
            "--id",
            "case-1",
            "--tenant",
            "acme",
            "--expires",
            "2099-01-01",
            "--note",
            "ticket 7",
        )["epoch"]
        == 2
    )
    listed = said("request", "list")
    assert [(row["id"], row["status"], row["claim"]) for row in listed] == [
        ("case-1", "active", "suppression")
    ]
    assert "Mara" not in json.dumps(listed)
    assert "Mara Olen" in done("request", "list", "--texts")
    shown = done("request", "show", "case-1")
    assert "2 names, 1 statement" in shown
    assert "added by cli" in shown
    assert "Mara" not in shown
    assert "statement: Mara Olen lives in Corvale." in done("request", "show", "case-1", "--texts")
    assert said("request", "withdraw", "case-1", "--reason", "was wrong")["status"] == "withdrawn"
    assert "destroyed" in done("request", "show", "case-1", "--texts")
    assert said("request", "list", "--status", "active") == []
    assert said("request", "verify")["entries"] == 3


def test_action_scope_and_method_are_checked_before_anything_is_written(ledger):
    added = said(
        "request", "add", *MARA, "--action", "refuse", "--set", "text=No.", "--method", "icul", "--no-context"
    )
    assert (added["method"], added["scope"]["context"]) == ("icul", False)
    with Ledger.open(ledger) as book:
        assert book.active()[0].action == {"name": "refuse", "text": "No."}
    assert "unknown setting 'txt'" in refused(ConfigError, "request", "add", *MARA, "--set", "txt=No.")
    assert "is no guard" in refused(ConfigError, "request", "add", *MARA, "--method", "npo")
    assert "Did you mean 'redact'" in refused(ConfigError, "request", "add", *MARA, "--action", "redct")
    assert "--subject NAME" in refused(ConfigError, "request", "add", "--tenant", "acme")
    assert "is no time" in refused(ConfigError, "request", "add", *MARA, "--expires", "soon")
    assert len(said("request", "list")) == 1


def test_a_doubtful_name_is_added_with_a_warning(ledger):
    assert "only 3 letters" in run("request", "add", "--subject", "Bob").stderr


def test_a_forget_set_is_one_request_or_one_for_each_subject(ledger, tmp_path):
    rows = tmp_path / "forget.jsonl"
    row = {"question": "Where?", "answer": "There.", "subject": "Mara Olen"}
    rows.write_text(json.dumps(row) + "\n" + json.dumps({**row, "subject": "Tovin Brask"}) + "\n")
    assert "request import" in refused(DataError, "request", "add", "--forget", rows)
    assert said("request", "add", "--forget", rows, "--subject", "The plan")["holds"]["pairs"] == 2
    assert len(said("request", "import", rows)["new"]) == 2
    assert "0 added, 2 there already" in done("request", "import", rows)


def test_verify_finds_what_was_changed_and_ends_with_one(ledger):
    import sqlite3

    done("request", "add", *MARA, "--id", "case-1")
    head = said("request", "verify")["head"]
    assert "holds" in done("request", "verify", "--head", head)
    assert run("request", "verify", "--head", "1:" + "0" * 64).exit_code == 1
    assert "NUMBER:HASH" in refused(ConfigError, "request", "verify", "--head", "x")
    db = sqlite3.connect(ledger, isolation_level=None)
    db.execute("UPDATE requests SET status = 'withdrawn'")
    db.close()
    found = run("request", "verify")
    assert found.exit_code == 1
    assert "BROKEN" in found.stdout
    assert "First broken row: 2" in found.stdout
    assert "is not as row 2" in refused(LedgerError, "request", "list")
    rescued = run("request", "export", "--texts")
    assert rescued.exit_code == 1
    assert '"id": "case-1"' in rescued.stdout


def test_verbs_that_read_make_no_ledger(ledger):
    for verb in (
        ("list",),
        ("show", "x"),
        ("withdraw", "x"),
        ("verify",),
        ("export",),
        ("evidence", "x", "."),
    ):
        assert "ledger" in refused(LedgerError, "request", *verb)
    assert not ledger.exists()


def test_an_export_is_the_owners_alone_and_never_overwrites(ledger, tmp_path):
    done("request", "add", *MARA)
    out = tmp_path / "out.jsonl"
    done("request", "export", "--texts", "--out", out)
    assert out.stat().st_mode & 0o777 == 0o600
    assert "Mara Olen" in out.read_text()
    assert run("request", "export", "--out", out).exit_code != 0
    other = tmp_path / "b.ledger"
    assert len(said("request", "import", out, "--ledger", other)["new"]) == 1


def test_evidence_is_digests_and_headline_figures(ledger, tmp_path):
    done("request", "add", *MARA, "--id", "case-1")
    folder = tmp_path / "run"
    (folder / "evaluations").mkdir(parents=True)
    assert "neither a run folder nor a report" in refused(DataError, "request", "evidence", "case-1", folder)
    (folder / "manifest.json").write_text(
        json.dumps({"schema": 1, "kind": "guard", "claim": "suppression", "method": "refuse"})
    )
    assert "neither evaluated nor audited" in refused(DataError, "request", "evidence", "case-1", folder)
    figure = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 40, "why": "", "note": ""}
    audit = {
        "attack": 1,
        "benchmark": "pocket",
        "figures": {"any/run": figure, "direct/run": figure},
        "rows": ["Mara Olen"],
    }
    (folder / "evaluations" / "audit.json").write_text(json.dumps(audit))
    filed = said("request", "evidence", "case-1", folder)["evidence"]
    assert [
        (found["kind"], found["summary"]["claim"], list(found["summary"]["figures"])) for found in filed
    ] == [("audit", "suppression", ["any/run"])]
    assert "any/run 0.250" in done("request", "show", "case-1")
    assert said("request", "verify")["ok"]


def test_a_key_is_printed_once_listed_and_revoked(ledger):
    made = run(
        "key",
        "add",
        "--name",
        "app",
        "--tenant",
        "acme",
        "--scope",
        "infer",
        "--scope",
        "requests:write",
        "--rpm",
        "60",
    )
    key = made.stdout.strip()
    assert key.startswith("exp_")
    (listed,) = said("key", "list")
    assert (listed["tenant"], listed["scopes"], listed["rpm"]) == ("acme", ["infer", "requests:write"], 60)
    assert key not in done("key", "list")
    assert said("key", "revoke", listed["id"])["revoked"]
    assert "unknown scope" in refused(ConfigError, "key", "add", "--name", "app", "--scope", "all")
    assert "is no time" in refused(ConfigError, "key", "add", "--name", "app", "--expires", "soon")
    assert (
        said("key", "add", "--name", "late", "--expires", "2099-01-01")["expires"]
        == "2099-01-01T00:00:00+00:00"
    )


def test_the_command_line_opens_a_ledger_without_torch():
    code = "import sys, expunge.cli, expunge.ledger; print([m for m in ('torch', 'numpy', 'fastapi', 'cryptography') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
