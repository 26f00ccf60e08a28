"""A served removal is verified: the server is attacked with one's own rows, and the report becomes evidence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from expunge.ledger import Ledger

pytestmark = pytest.mark.slow
COMMAND = "from expunge.cli import main; main()"


def test_an_attack_on_a_server_becomes_evidence_of_a_request(tiny_world, tmp_path):
    ledger, rows, report = (tmp_path / name for name in ("x.ledger", "rows.jsonl", "report.json"))
    of_all = (tiny_world / "forget.jsonl").read_text().splitlines()
    subject = json.loads(of_all[0])["subject"]
    rows.write_text("".join(f"{line}\n" for line in of_all if json.loads(line)["subject"] == subject))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "EXPUNGE_LEDGER": str(ledger)}

    def command(*words, **more):
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *map(str, words)],
            check=False, capture_output=True, text=True, env={**env, **more}, timeout=240
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("request", "add", "--forget", rows, "--id", "case-1")
    key = command("key", "add", "--name", "auditor").strip()
    words = ["serve", tiny_world / "target", "--retain", tiny_world / "retain.jsonl", "--port", 0, "--name", "pocket"]  # fmt: skip
    server = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True, env=env)  # fmt: skip
    try:
        said = next(line for line in server.stderr if "is served on" in line)
        address = f"{said.split('is served on ')[1].split(',')[0]}#pocket"
        more = ["--forget", rows, "--retain", tiny_world / "retain.jsonl", "--target", tiny_world / "target"]
        command("attack", address, *more, "--suite", "quick", "--out", report, EXPUNGE_API_KEY=key)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert "stopped." in server.stderr.read()
    finally:
        server.kill()
    result = json.loads(report.read_text())
    assert result["figures"]["any/run"]["value"] == 0
    assert result["figures"]["any/target"]["value"] > 0.5
    prefill = next(row for row in result["attacks"] if row["name"] == "prefill")
    assert "an endpoint answers chats" in (prefill["why"] or prefill["asr"]["run"]["why"])
    command("request", "evidence", "case-1", report)
    with Ledger.open(ledger) as book:
        (filed,) = book.show("case-1").evidence
    assert (filed.kind, filed.summary["subject"]) == ("audit", address)
