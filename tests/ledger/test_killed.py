"""What was acknowledged survives SIGKILL, whatever the ledger was doing; two processes share one chain."""

import os
import signal
import subprocess
import sys
import time

import pytest

from expunge.ledger import Ledger, schema
from tests.ledger.conftest import KEY, wanted

STORM = """
import itertools, os, sys
from expunge.ledger import Ledger
from tests.ledger.conftest import KEY, wanted

ledger = Ledger.open(sys.argv[1], key=KEY, create=True)
who = sys.argv[2]
count = int(sys.argv[3])
print("ready", flush=True)
for number in itertools.count() if count < 0 else range(count):
    id = f"{who}-{number}"
    ledger.add(wanted(f"Person Nr{number}", id=id), actor=who)
    print("added", id, flush=True)
    if number % 3 == 0:
        ledger.withdraw(id, actor=who)
        print("withdrawn", id, flush=True)
ledger.close()
"""
MIGRATION = """
import sys, time
from expunge.ledger import Ledger, schema
from tests.ledger.conftest import KEY

def slow(db):
    db.execute("CREATE TABLE more (a TEXT) STRICT")
    db.execute("UPDATE requests SET method = 'half done'")
    print("within", flush=True)
    time.sleep(60)

schema.MIGRATIONS.append(slow)
Ledger.open(sys.argv[1], key=KEY)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def said(process):
    """What it printed, killed by now; a last line that was cut off does not count."""
    text, _ = process.communicate()
    return [tuple(line.split()) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.11, 0.3])
def test_nothing_acknowledged_is_lost_by_a_kill_in_a_storm_of_writes(path, seconds):
    acknowledged = {}
    for turn in range(2):
        process = start(STORM, path, f"turn{turn}", -1)
        process.stdout.readline()
        first = [tuple(process.stdout.readline().split())] if seconds else []
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        acknowledged |= {id: done for done, id in [*first, *said(process)]}
        with Ledger.open(path, key=KEY) as ledger:
            assert ledger.verify().ok
            found = {entry.id: entry for entry in ledger.list()}
        for id, done in acknowledged.items():
            status, request = found[id].status, found[id].request
            assert status == "withdrawn" or (done == "added" and status == "active"), (id, done, status)
            assert (request is None) == (status == "withdrawn")
        assert len(found) <= len(acknowledged) + turn + 1  # at most one a kill was written and not told
    assert acknowledged or not seconds


def test_a_ledger_killed_while_it_is_made_is_made_by_the_next(path):
    for _ in range(4):
        process = start(STORM, path, "first", -1)
        time.sleep(0.25)  # about when it gets there
        process.send_signal(signal.SIGKILL)
        said(process)
    with Ledger.open(path, key=KEY, create=True) as ledger:
        assert ledger.verify().ok


def test_a_kill_within_a_migration_leaves_the_version_before(path):
    with Ledger.open(path, key=KEY, create=True) as ledger:
        entry = ledger.add(wanted(id="case-1"), actor="ops")
    process = start(MIGRATION, path)
    assert process.stdout.readline() == "within\n"
    process.send_signal(signal.SIGKILL)
    said(process)
    with Ledger.open(path, key=KEY) as ledger:
        assert ledger.active() == [entry]
        assert ledger.verify().ok
        assert ledger._db.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
        assert not ledger._db.execute("SELECT name FROM sqlite_master WHERE name = 'more'").fetchall()


def test_another_process_that_leaves_takes_nothing_away_from_one_that_stays(path):
    with Ledger.open(path, key=KEY, create=True) as ledger:
        ledger.verify()  # must not touch the file beside SQLite, or its locks are gone
        ledger.add(wanted(id="case-1"), actor="ops")
        other = start(STORM, path, "other", 1)
        assert said(other)
        assert other.returncode == 0
        assert path.with_name(path.name + "-wal").exists()
        assert {entry.id for entry in ledger.list()} == {"case-1", "other-0"}


def test_two_processes_make_and_fill_one_ledger_with_one_chain(path):
    both = [start(STORM, path, who, 15) for who in ("left", "right")]
    told = [line for process in both for line in said(process)]
    assert [process.returncode for process in both] == [0, 0]
    with Ledger.open(path, key=KEY) as ledger:
        assert ledger.verify().ok
        found = {entry.id: entry.status for entry in ledger.list()}
        assert len(found) == 30
        assert (
            sum(status == "withdrawn" for status in found.values())
            == sum(line[0] == "withdrawn" for line in told)
            == 10
        )
        assert len({event.actor for event in ledger.history()}) == 3
