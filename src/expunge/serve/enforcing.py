"""From the ledger to the policy: what the ledger holds is in force before the next prompt is decided on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.data.dataset import Record
from expunge.errors import ConfigError, UserError
from expunge.guards.actions.refuse import Refuse
from expunge.guards.policy import without_collection
from expunge.ledger import LedgerError

if TYPE_CHECKING:
    from expunge.guards.guard import Guard
    from expunge.guards.policy import Policy
    from expunge.guards.snapshot import Snapshot
    from expunge.ledger import Entry, Ledger, RemovalRequest

log = logging.getLogger("expunge.serve")
HIDDEN = "canary:"
"""Requests of the server's own begin so, which no id of the ledger's can; nobody is told of them."""


OPENED = ("agents", "assistant", "encoder", "entities")
"""Settings of actions that name a folder or a model."""


class Enforcer:
    """Keeps a policy at the ledger's state. Safe to use from several threads."""

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        *,
        refusal: str = Refuse().text,
        accepts: Callable[[Any], None] | None = None,
        own: Mapping[str, Sequence[Record]] | None = None,
        guards: Mapping[str, Guard] | None = None,
        clock: Callable[[], float] = time.time,
    ):
        """`refusal`: what the action 'refuse' says. `accepts` raises ConfigError for a fitted action that the backend cannot carry out.
        `own`: requests beside the ledger's, refused, and never shown. `guards`: fitted ones that stand beside the ledger.
        """
        self.ledger, self.policy = ledger, policy
        self._refusal, self._clock = refusal, clock
        self.accepts = accepts or (lambda action: None)
        self._own, self._guards = dict(own or {}), dict(guards or {})
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        """Those in force, by id."""
        self._due: float | None = None
        self._seen: Any = None
        self._epoch = 0
        self.notes: dict[str, str] = {}
        """By id: in which way a request is enforced otherwise than it asks."""
        self.refuse_method: Callable[[str], None] = _no_methods
        """Raises ConfigError for a method that is not fitted here."""
        self.on_fallback: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None
        """Called when requests came or went."""
        self.on_guard: Callable[[Guard], None] = lambda guard: None
        """Is told each fitted guard that is put in force."""
        self.lag = 0.0
        """Seconds between the last change in the ledger and its enforcement here. Nothing was decided in between."""

    # --- reading --------------------------------------------------------------------------------------------------------
    @property
    def requests(self) -> tuple[str, ...]:
        """Ids of those in force."""
        return tuple(self._entries)

    @property
    def epoch(self) -> int:
        return self._epoch

    def holds(self, id: str) -> bool:
        """Whether a request is in force here."""
        return id in self._entries

    def in_force(self) -> list[Entry]:
        return list(self._entries.values())

    def shown(self, keys: Iterable[str]) -> tuple[str, ...]:
        """The ids of the requests in a decision, without the server's own."""
        return tuple(key.partition("@")[0] for key in keys if key and not key.startswith(HIDDEN))

    def fresh(self) -> Snapshot | None:
        """The policy's snapshot where nothing changed since it was made, else None: then ask `current`, which may take a while."""
        unchanged = self._seen is not None and self.ledger.data_version() == self._seen
        return self.policy.snapshot if unchanged and not self._over_due() else None

    def current(self) -> Snapshot:
        """The policy's snapshot, after whatever was added, changed, withdrawn or has expired, in whichever process. Raises what the
        ledger raises: without it nobody knows what is in force.
        """
        found = self.fresh()
        if found is not None:
            return found
        with self._lock:
            found = self.fresh()
            return self._follow() if found is None else found

    # --- following the ledger -------------------------------------------------------------------------------------------
    @without_collection()
    def start(self) -> None:
        """Put everything in force that the ledger holds."""
        with self._lock:
            seen, epoch = self.ledger.data_version(), self.ledger.epoch
            for key, rows in self._own.items():
                self.policy.add(key, rows, Refuse(text=self._refusal))
            for key, guard in self._guards.items():
                self.accepts(guard.action)
                self.on_guard(guard)
                self.policy.add_guard(key, guard)
            entries = self.ledger.active()
            self.policy.add_many([self._item(entry) for entry in entries if _refuses(entry)], epoch)
            for entry in entries:
                if not _refuses(entry):
                    self._add(entry, epoch)
            self._entries = {entry.id: entry for entry in entries}
            self._now_at(seen, epoch)

    def _over_due(self) -> bool:
        return self._due is not None and self._clock() >= self._due

    def _follow(self) -> Snapshot:
        seen, epoch = self.ledger.data_version(), self.ledger.epoch
        if epoch < self._epoch:
            raise LedgerError(
                f"{self.ledger.path}: went back to an older state while it was in use. Put the newer one back, or start again."
            )
        changed = self.ledger.changes(self._epoch)
        for entry in changed:
            self._apply(entry, epoch)
        if self.policy.snapshot.epoch != epoch:  # nothing that is enforced came or went
            self.policy.add_many((), epoch)
        self._now_at(seen, epoch)
        if changed:
            (row,) = self.ledger.history(epoch - 1, limit=1)
            self.lag = max(0.0, self._clock() - row.at.timestamp())
            self.on_change()
        return self.policy.snapshot

    def _now_at(self, seen: Any, epoch: int) -> None:
        self._due, self._epoch, self._seen = self.ledger.next_change(), epoch, seen

    def _apply(self, entry: Entry, epoch: int) -> None:
        known = self._entries.get(entry.id)
        if known and known.version == entry.version and entry.status == "active":
            return
        self.notes.pop(entry.id, None)
        if entry.status == "active":
            self._add(entry, epoch)  # before the version before it goes: neither is missing for a moment
            self._entries[entry.id] = entry
        if known:
            self.policy.withdraw(key_of(known), epoch=epoch)
            if entry.status != "active":
                del self._entries[entry.id]

    def _add(self, entry: Entry, epoch: int) -> None:
        """With a refusal where the request's own action cannot be carried out: stricter, never weaker."""
        try:
            key, rows, action, where = self._item(entry)
            self._try(key, rows, action)
        except UserError as error:
            why = str(error).splitlines()[0]
            note = f"its action '{_action_name(entry)}' cannot be carried out here ({why}), so it is refused instead"
            self.notes[entry.id] = note
            log.warning("request %s: %s", entry.id, note)
            self.on_fallback()
            key, rows, action, where = self._item(entry, Refuse(text=self._refusal))
        self.policy.add(key, rows, action, **where, epoch=epoch)

    def install(self, entry: Entry, guard: Guard) -> bool:
        """Put a fitted guard in the place of a request's instant action. Whether this version of the request is still in force."""
        self.current()
        with self._lock:
            now = self._entries.get(entry.id)
            if now is None or now.version != entry.version:
                return False
            self.on_guard(guard)
            self.policy.replace(key_of(now), guard, epoch=self._epoch)
            return True

    # --- a request as the policy takes it ---------------------------------------------------------------------------------
    def _item(self, entry: Entry, action: Any = None) -> tuple[str, Sequence[Record], Any, dict[str, Any]]:
        assert entry.request is not None, "one that is in force has its texts"
        rows = self._findable(entry.request.records())
        where = {"tenant": entry.tenant, "scope": entry.scope}
        return key_of(entry), rows, action or self.action(entry.request), where

    def _findable(self, rows: Sequence[Record]) -> Sequence[Record]:
        """Without names, statements and a background, questions are found where they are asked word for word."""
        if self.policy.background or any(row.subject or row.shape == "text" for row in rows):
            return rows
        return [*rows, *(Record(f"{row.id}-words", text=row.question) for row in rows)]

    def action(self, request: RemovalRequest) -> Any:
        """The action's settings. Raises ConfigError."""
        given = request.action
        settings = {"name": given} if isinstance(given, str) else dict(given)
        name = str(settings.pop("name", ""))
        if ":" in name:
            raise ConfigError(f"action '{name}': a server runs no code that a request names.")
        if name == "refuse" and not settings:
            return Refuse(text=self._refusal)
        return catalog.load("action", name).parse(settings, f"action {name}")

    def check(self, request: RemovalRequest) -> None:
        """Raises UserError where a request could not be enforced as it asks."""
        if request.method:
            self.refuse_method(request.method)
        if not isinstance(request.action, str):
            _refuse_files(request.action)
        rows = self._findable(request.records())
        self._try("the new one", rows, self.action(request))

    def _try(self, key: str, rows: Sequence[Record], action: Any) -> None:
        """Raises UserError where an action cannot take effect at once, or not before this model."""
        try:
            fitted = self.policy.fitted(key, rows, action)
        except UserError:
            raise
        except Exception as error:  # it reaches for what an endpoint does not have
            raise ConfigError(
                f"action '{type(action).__name__.lower()}' cannot take effect at once here: it reaches for more of the model than this server "
                f"has at hand ({type(error).__name__}). Take one that works on text, such as refuse or redact, or serve the model in this process."
            ) from error
        self.accepts(fitted)


def key_of(entry: Entry) -> str:
    """A request's name in the policy: each version has its own."""
    return entry.id if entry.version == 1 else f"{entry.id}@{entry.version}"


def _refuse_files(action: Mapping[str, Any]) -> None:
    """Raises ConfigError for what a client has no business to make a server open, or to learn whether it is there."""
    for name in OPENED:
        if action.get(name) not in (None, "self"):
            raise ConfigError(
                f"action '{action['name']}': '{name}' names a folder or another model, and a server opens none that a request names. "
                "Fit a guard with it and serve that with --guards."
            )


def _no_methods(method: str) -> None:
    raise ConfigError(
        f"method '{method}': this server fits no guards. It takes a model in this process and what must stay: expunge serve MODEL --retain FILE."
    )


def _action_name(entry: Entry) -> str:
    return entry.action if isinstance(entry.action, str) else str(entry.action.get("name", ""))


def _refuses(entry: Entry) -> bool:
    """Whether nothing can be wrong with its action."""
    return entry.action == "refuse"
