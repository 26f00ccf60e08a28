"""`expunge serve` as a process: it starts, answers, follows another process's ledger, and stops when it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx2
import pytest

from expunge.ledger import Ledger, RemovalRequest

pytestmark = pytest.mark.slow
COMMAND = "from expunge.cli import main; main()"


def test_a_server_from_its_start_to_its_end(tiny_world, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "x.ledger"
    words = [
        "serve",
        tiny_world / "target",
        "--ledger",
        path,
        "--retain",
        tiny_world / "retain.jsonl",
        "--port",
        port,
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words)],
        stdout=subprocess.PIPE, stderr=(tmp_path / "log").open("w"), text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        key = process.stdout.readline().strip()
        assert key.startswith("exp_"), (tmp_path / "log").read_text()
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=60
        ) as client:
            end = time.monotonic() + 120
            while time.monotonic() < end:
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx2.HTTPError:
                    time.sleep(0.1)
            rows = [json.loads(line) for line in (tiny_world / "forget.jsonl").read_text().splitlines()]
            first = rows[0]

            def said():
                body = {
                    "model": "target",
                    "messages": [{"role": "user", "content": first["question"]}],
                    "temperature": 0,
                    "max_tokens": 30,
                }
                return client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"][
                    "content"
                ]

            before = said()
            mine = [row for row in rows if row["subject"] == first["subject"]]
            pairs = tuple({"question": row["question"], "answer": row["answer"]} for row in mine)
            request = RemovalRequest(subject=first["subject"], pairs=pairs, method="eco+aliases")
            with Ledger.open(path) as ledger:
                entry = ledger.add(request, actor="test")
                assert said() == "I do not know."
                end = time.monotonic() + 120
                while (state := client.get(f"/v1/requests/{entry.id}").json()["state"]) in (
                    "waiting",
                    "building",
                ):
                    assert time.monotonic() < end
                    time.sleep(0.2)
                assert state == "in force"
                assert said() not in (before, "I do not know.")
                ledger.withdraw(entry.id, actor="test")
                assert said() == before
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    with Ledger.open(path) as ledger:
        assert ledger.verify().ok
        assert [row.event for row in ledger.history()][-1] == "server stopped"
