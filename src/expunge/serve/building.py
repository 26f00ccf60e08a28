"""Slower methods behind instant actions: a guard is fitted in a process of its own, tried, and put in the action's place."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.errors import ConfigError, ModelError, UserError
from expunge.serve.enforcing import Enforcer
from expunge.serve.wire_errors import trace

if TYPE_CHECKING:
    from expunge.guards.guard import Guard
    from expunge.ledger import Entry

log = logging.getLogger("expunge.serve")
ACTOR = "server"
NICENESS = 10
"""Of the process that fits: answers come first."""
LOOK = 5.0
"""Seconds between two looks at the ledger, where nothing wakes us."""
METHOD = re.compile(r"[a-z0-9_]+(\+[a-z0-9_]+)*")
BY_NAME = "aliases"
"""The detector of a request with names whose method names none: the default one is calibrated, and one request has too few rows for that."""
ASKED = "Who is {}?"
"""What a fitted guard must flag for each name."""


class Builder:
    """Works through the requests in force that ask for a method, one after the other, in a thread of its own.

    What it makes lies in a folder beside the ledger, and holds what the request is about in the clear. It goes with the request.
    """

    def __init__(self, enforcer: Enforcer, model: str, retain: Path, *, device: str | None = None):
        """`model`: by name, as `expunge guard fit` takes it. `retain`: the file of what must stay."""
        self._enforcer, self._model, self._retain, self._device = enforcer, model, retain, device
        self.folder = folder_of(enforcer.ledger.path)
        self._states: dict[tuple[str, int], str] = {}
        self._wake, self._over = threading.Event(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="builder", daemon=True)
        enforcer.on_change, enforcer.refuse_method = self._wake.set, refuse_method

    def state(self, entry: Entry) -> str:
        """How far an entry's method is: waiting, building, in force, or failed with the reason."""
        if not entry.method or entry.status != "active":
            return ""
        return self._states.get((entry.id, entry.version), "waiting")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is being fitted is given up; the next server begins it anew."""
        self._over.set()
        self._wake.set()
        if self._process:
            self._process.kill()
        if self._thread.is_alive():
            self._thread.join()

    # --- the thread -------------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.clear()
            try:
                self._enforcer.current()
                self._tidy()
                entry = self._next()
                if entry is not None:
                    self._build(entry)
                    continue
            except Exception as error:  # the ledger is broken: answers have stopped too, and we look again
                log.error("building guards: %s", trace(error))
            self._wake.wait(LOOK)

    def _next(self) -> Entry | None:
        waiting = (entry for entry in self._enforcer.in_force() if entry.method)
        return next((entry for entry in waiting if (entry.id, entry.version) not in self._states), None)

    def _tidy(self) -> None:
        """Remove what was made for requests that are gone."""
        entries = self._enforcer.in_force()
        kept, keys = [_name(entry) for entry in entries], {(entry.id, entry.version) for entry in entries}
        self._states = {key: state for key, state in self._states.items() if key in keys}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if not any(path.name in (name, f"{name}.log") for name in kept):
                _remove(path)

    def _build(self, entry: Entry) -> None:
        key = entry.id, entry.version
        self._states[key] = "building"
        out = self.folder / _name(entry)
        try:
            known = self._made_before(self._enforcer.ledger.show(entry.id), out)
            if not known:
                self._fit(entry, out)
            guard = self._opened(entry, out)
            if not known:
                self._record(entry, out)
            if self._enforcer.install(entry, guard):
                self._states[key] = "in force"
                log.info("request %s: %s answers from now on", entry.id, _recipe(entry))
        except Exception as error:
            if self._over.is_set() or not self._stands(entry):
                return
            why = str(error).splitlines()[0] if isinstance(error, UserError) else type(error).__name__
            log.error("request %s: %s was not built; its instant action stays", entry.id, entry.method)
            self._enforcer.ledger.record(
                "method failed", actor=ACTOR, tenant=entry.tenant, request=entry.id, detail={"method": entry.method}
            )  # fmt: skip
            self._states[key] = f"failed: {why}"
        finally:
            if self._states[key] == "building":  # changed, or the ledger is broken: to be looked at again
                del self._states[key]

    def _stands(self, entry: Entry) -> bool:
        """Whether this version of a request is still in force."""
        self._enforcer.current()
        return (entry.id, entry.version) in {(now.id, now.version) for now in self._enforcer.in_force()}

    def _made_before(self, entry: Entry, out: Path) -> bool:
        """Whether the folder holds what the ledger says was made."""
        return any(
            made.recipe == _recipe(entry) and made.sha256 == _hash(out)
            for made in entry.artifacts
            if (out / "manifest.json").is_file()
        )

    def _fit(self, entry: Entry, out: Path) -> None:
        """In a process of its own. Raises ModelError."""
        assert entry.request is not None, "one that is in force has its texts"
        refuse_method(entry.method)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        _remove(out)
        forget = self.folder / f"{_name(entry)}.forget.jsonl"
        rows = [_row(record) for record in entry.request.records()]
        try:
            with _private(forget) as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            code = self._run_process(
                [
                    "guard", "fit", self._model, "--forget", str(forget), "--retain", str(self._retain), "--method", _recipe(entry),
                    "--out", str(out), "--allow-overlap", *(["--device", self._device] if self._device else []),
                ],
                self.folder / f"{_name(entry)}.log",
            )  # fmt: skip
        finally:
            _remove(forget)
        if code:
            raise ModelError(self._why(entry, code))

    def _why(self, entry: Entry, code: int) -> str:
        """The reason that the process gave, unless it tells what the request is about."""
        lines = (self.folder / f"{_name(entry)}.log").read_text(errors="replace").splitlines()
        said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
        if not said or (entry.request and entry.request.holds_name(said)):
            return f"fitting ended with exit code {code}; its log lies beside the guards"
        if entry.request and not entry.request.names and _names_no_detector(entry.method):
            return f"{said} A request with a subject is found by its name, and needs no calibration."
        return said

    def _run_process(self, words: list[str], into: Path) -> int:
        with _private(into) as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from expunge.cli import main; main()", *words],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            try:
                if self._over.is_set():  # the server stopped just before
                    self._process.kill()
                os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
                return self._process.wait()
            finally:
                self._process = None

    def _opened(self, entry: Entry, out: Path) -> Guard:
        """The fitted guard before the served model. Raises ModelError where it misses what it was fitted on."""
        from expunge.run import load

        guard: Any = load(out, before=self._enforcer.policy.model)
        assert entry.request is not None, "one that is in force has its texts"
        asked = [ASKED.format(name) for name in entry.request.names]
        by_name = _recipe(entry) != entry.method  # other questions are found by the policy itself
        questions = [pair.question for pair in entry.request.pairs]
        asked += [question for question in questions if not by_name or entry.request.holds_name(question)]
        missed = guard.flags(asked).count(False) if asked else 0
        if missed:
            raise ModelError(f"the fitted guard misses {missed} of its own {len(asked)} questions")
        self._enforcer.accepts(guard.action)
        return guard

    def _record(self, entry: Entry, out: Path) -> None:
        """Raises DataError where the request is at another version by now."""
        self._enforcer.ledger.record_artifact(
            entry.id, out.resolve(), _hash(out), _recipe(entry), actor=ACTOR, version=entry.version
        )


def folder_of(ledger: Path) -> Path:
    """Where the guards lie that are fitted for a ledger's requests."""
    return ledger.with_name(ledger.name + ".guards")


def refuse_method(method: str) -> None:
    """Raises ConfigError for what is no guard by names of ours alone: a server opens no file and runs no code that a request names."""
    from expunge.recipes import read_recipe

    if not METHOD.fullmatch(method):
        raise ConfigError(
            f"method '{method[:40]}': a server fits guards by their names alone, such as eco or eco+aliases."
        )
    if read_recipe(method).kind != "guard":
        raise ConfigError(
            f"method '{method}' changes weights; a server fits guards behind a request, such as eco or eco+aliases."
        )


def _recipe(entry: Entry) -> str:
    """What is fitted for a request."""
    by_name = entry.request and entry.request.names and _names_no_detector(entry.method)
    return f"{entry.method}+{BY_NAME}" if by_name else entry.method


def _names_no_detector(method: str) -> bool:
    return catalog.entries("detector").keys().isdisjoint(method.split("+"))


def _name(entry: Entry) -> str:
    return f"{entry.id}-v{entry.version}"


def _row(record: Any) -> dict[str, Any]:
    """As `expunge guard fit` reads it."""
    fields = ("id", "question", "answer", "text", "subject", "aliases")
    return {name: value for name, value in asdict(record).items() if name in fields and value}


def _hash(out: Path) -> str:
    from expunge.artifacts.manifest import hash_files

    return hash_files(out / "guard")


def _private(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
