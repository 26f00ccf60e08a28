"""Fitted guards behind instant actions: built, tried, put in place, and gone with their request."""

from __future__ import annotations

import json
import stat
import threading
from types import SimpleNamespace

import pytest

from expunge.errors import ConfigError
from expunge.guards.actions.refuse import FittedRefuse
from expunge.guards.detectors.aliases import Aliases
from expunge.serve import building
from expunge.serve.building import Builder, refuse_method
from tests.serve.conftest import make_world, wait_until


class Fitting:
    """Stands in for the process that fits and for what opens its run."""

    def __init__(self, world, monkeypatch):
        self.world, self.code, self.misses = world, 0, False
        self.words, self.rows = [], []
        self.gate = threading.Event()
        self.gate.set()
        monkeypatch.setattr(Builder, "_run_process", lambda builder, words, into: self.run(words, into))
        monkeypatch.setattr("expunge.run.load", self.load)

    def run(self, words, into):
        from pathlib import Path

        into.write_text("error: too few rows\n" if self.code else "")
        self.words.append(words)
        forget = Path(words[words.index("--forget") + 1])
        assert stat.S_IMODE(forget.stat().st_mode) == 0o600
        self.rows.append([json.loads(line) for line in forget.read_text().splitlines()])
        self.gate.wait(5)
        out = Path(words[words.index("--out") + 1])
        if not self.code:
            (out / "guard").mkdir(parents=True)
            (out / "manifest.json").write_text("{}")
            (out / "guard" / "guard.json").write_text(json.dumps(words))
        return self.code

    def load(self, out, before=None):
        flags = [not self.misses]
        return SimpleNamespace(
            model=before,
            action=FittedRefuse("Built."),
            flags=lambda texts: flags * len(texts),
            detection=SimpleNamespace(settings=Aliases()),
        )


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = make_world(tmp_path)
    made.enforcer.start()
    made.builder = Builder(made.enforcer, "MODEL", tmp_path / "retain.jsonl")
    made.fitting = Fitting(made, monkeypatch)
    monkeypatch.setattr(building, "LOOK", 0.02)
    made.builder.start()
    yield made
    made.builder.stop()
    made.ledger.close()


def state(world, entry):
    return world.builder.state(world.ledger.show(entry.id))


def action(world):
    return world.enforcer.current().decide(["Who is Mara Olen?"])[0].action.text


def test_a_guard_is_built_behind_the_instant_action_and_takes_its_place(world):
    world.fitting.gate.clear()
    entry = world.add(
        "Mara Olen", method="eco+aliases", pairs=({"question": "Who bakes?", "answer": "Mara"},)
    )
    wait_until(lambda: state(world, entry) == "building")
    assert action(world) == "I do not know."
    world.fitting.gate.set()
    wait_until(lambda: state(world, entry) == "in force")
    assert action(world) == "Built."
    (made,) = world.ledger.show(entry.id).artifacts
    assert made.recipe == "eco+aliases"
    assert [row.get("question") for row in world.fitting.rows[0]] == [None, "Who bakes?"]
    assert not list(world.builder.folder.glob("*.forget.jsonl")), "the rows in the clear are gone"
    assert stat.S_IMODE(world.builder.folder.stat().st_mode) == 0o700
    assert world.ledger.verify().ok


def test_what_was_made_goes_with_its_request(world):
    entry = world.add("Mara Olen", method="eco")
    wait_until(lambda: state(world, entry) == "in force")
    assert list(world.builder.folder.iterdir())
    world.ledger.withdraw(entry.id, actor="test")
    wait_until(lambda: not list(world.builder.folder.iterdir()))


def test_a_request_that_is_withdrawn_meanwhile_is_not_enforced_again(world):
    world.fitting.gate.clear()
    entry = world.add("Mara Olen", method="eco")
    wait_until(lambda: state(world, entry) == "building")
    world.ledger.withdraw(entry.id, actor="test")
    world.fitting.gate.set()
    wait_until(lambda: world.builder.folder.is_dir() and not list(world.builder.folder.iterdir()))
    assert world.enforcer.current().decide(["Who is Mara Olen?"])[0].requests == ()


def test_a_changed_request_is_built_anew(world):
    from expunge.ledger import RemovalRequest

    entry = world.add("Mara Olen", method="eco")
    wait_until(lambda: state(world, entry) == "in force")
    changed = world.ledger.change(entry.id, RemovalRequest(subject="Mara Olen", method="icul"), actor="test")
    wait_until(lambda: state(world, changed) == "in force")
    assert [words[words.index("--method") + 1] for words in world.fitting.words] == [
        "eco+aliases",
        "icul+aliases",
    ]
    wait_until(lambda: sorted(p.name for p in world.builder.folder.glob("*-v?")) == [f"{entry.id}-v2"])


@pytest.mark.parametrize("broken", ["code", "misses"])
def test_a_guard_that_cannot_be_built_or_misses_its_own_leaves_the_instant_action(world, broken):
    setattr(world.fitting, broken, True)
    entry = world.add("Mara Olen", method="eco")
    wait_until(lambda: state(world, entry).startswith("failed"))
    assert state(world, entry) == "failed: " + (
        "too few rows" if broken == "code" else "the fitted guard misses 1 of its own 1 questions"
    )
    assert action(world) == "I do not know."
    assert world.ledger.show(entry.id).artifacts == ()
    assert [row.event for row in world.ledger.history(request=entry.id)] == ["added", "method failed"]


def test_what_was_built_before_is_opened_and_not_built_again(world, tmp_path):
    entry = world.add("Mara Olen", method="eco")
    wait_until(lambda: state(world, entry) == "in force")
    world.builder.stop()
    again = Builder(world.enforcer, "MODEL", tmp_path / "retain.jsonl")
    again.start()
    wait_until(lambda: again.state(world.ledger.show(entry.id)) == "in force")
    again.stop()
    assert len(world.fitting.words) == 1
    (again.folder / f"{entry.id}-v1" / "guard" / "guard.json").write_text("changed")
    third = Builder(world.enforcer, "MODEL", tmp_path / "retain.jsonl")
    third.start()
    wait_until(lambda: third.state(world.ledger.show(entry.id)) == "in force")
    third.stop()
    assert len(world.fitting.words) == 2, "what is not what the ledger says was made is made anew"


@pytest.mark.parametrize(
    "method", ["npo", "os:system", "x.yaml", "../../x", "eco --out /x", "nosuch", "--help", "eco+nosuch"]
)
def test_methods_are_names_of_guards_alone(method):
    with pytest.raises(ConfigError):
        refuse_method(method)


def test_guards_by_name_pass():
    refuse_method("eco")
    refuse_method("eco+aliases")


def test_a_request_with_names_is_found_by_them_where_its_method_names_no_detector(world):
    pairs = ({"question": "Who bakes?", "answer": "Mara"},)
    named = world.add("Mara Olen", method="eco", pairs=pairs)
    wait_until(lambda: state(world, named) == "in force")
    chosen = world.add("Tovin Brask", method="eco+always")
    wait_until(lambda: state(world, chosen) == "in force")
    nameless = world.add(pairs=pairs, method="eco")
    wait_until(lambda: state(world, nameless) == "in force")
    methods = [words[words.index("--method") + 1] for words in world.fitting.words]
    assert methods == ["eco+aliases", "eco+always", "eco"]
    assert [made.recipe for made in world.ledger.show(named.id).artifacts] == ["eco+aliases"]


def test_a_nameless_request_that_cannot_be_calibrated_is_told_what_is_missing(world):
    world.fitting.code = 2
    entry = world.add(pairs=({"question": "Who bakes?"},), method="eco")
    wait_until(lambda: state(world, entry).startswith("failed"))
    assert state(world, entry) == (
        "failed: too few rows A request with a subject is found by its name, and needs no calibration."
    )


def test_a_guard_that_is_done_after_a_change_is_not_filed_under_the_new_version(world, monkeypatch):
    from expunge.ledger import RemovalRequest

    opened, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(
        "expunge.run.load",
        lambda out, before=None: (opened.set(), go_on.wait(5), world.fitting.load(out, before))[2],
    )
    entry = world.add("Mara Olen", method="eco")
    assert opened.wait(5)
    changed = world.ledger.change(entry.id, RemovalRequest(subject="Mara Brask", method="icul"), actor="test")
    go_on.set()
    wait_until(lambda: state(world, changed) == "in force")
    assert [made.recipe for made in world.ledger.show(entry.id).artifacts] == ["icul+aliases"]
    assert "method failed" not in [row.event for row in world.ledger.history(request=entry.id)]
    assert list(world.builder._states) == [(entry.id, 2)]


def test_a_builder_that_stops_kills_what_it_has_just_begun(tmp_path, monkeypatch):
    made = make_world(tmp_path)
    builder = Builder(made.enforcer, "MODEL", tmp_path / "retain.jsonl")
    builder._over.set()
    popen = building.subprocess.Popen
    monkeypatch.setattr(building.subprocess, "Popen", lambda words, **more: popen(["sleep", "60"], **more))
    assert builder._run_process(["guard", "fit"], tmp_path / "log") < 0
    made.ledger.close()
