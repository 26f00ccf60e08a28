"""What is enforced at one moment: which requests a prompt falls under, what answers it, and what may not be written.

A snapshot never changes. Whoever decides takes it once and holds no lock, so a request is in force for a whole decision or not at
all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expunge.guards.actions.refuse import FittedRefuse, Refuse
from expunge.guards.aliases import AliasIndex
from expunge.guards.canonical import canonicalise
from expunge.guards.detection import pieces
from expunge.guards.neighbours import CHUNK, Background, Chunk, HashedNgrams, nearest_owners
from expunge.guards.phrases import Background as Ordinary
from expunge.guards.phrases import Phrases, phrases_of
from expunge.guards.watching import Watch
from expunge.types import LanguageModel, Prompt, Scope

if TYPE_CHECKING:
    from expunge.data.dataset import Record
    from expunge.guards.guard import Guard

EVERYWHERE = Scope()
LEAST_NEAR = 0.2
"""What is further from every question than this is not like any, however little the background prompts are like them."""
SEAM = 2048
"""Characters on either side of the border between context and input that are read together."""
COMBINED = 1024
"""Sets of requests that met in one prompt, whose joined action is kept at hand."""


class Decision(NamedTuple):
    """What the policy makes of one prompt."""

    requests: tuple[str, ...]
    """The requests that it falls under, in the order in which they were added."""
    action: Any = None
    """What answers it; None: the plain model."""


@dataclass(frozen=True)
class Ground:
    """What all snapshots of a policy share."""

    model: LanguageModel
    names: AliasIndex
    """Names and statements of all requests, and of some that are just coming or going: a snapshot sees its own."""
    encoder: HashedNgrams
    background: Background | None
    share: float
    """Of the background prompts, that may be as near to a request's questions as what is flagged."""
    ordinary: Sequence[str]
    """Texts that give nothing away."""

    @cached_property
    def frequent(self) -> Ordinary:
        """How frequent words are in them."""
        return Ordinary(self.ordinary)


@dataclass(frozen=True, eq=False)
class Enforced:
    """One request in force."""

    request: str
    number: int
    """In the order of arrival."""
    tenant: str
    scope: Scope
    rows: tuple[Record, ...]
    named: bool
    """Whether it has names or statements."""
    instant: Any
    """The action that took effect at once; None where there is only a guard."""
    guard: Guard | None
    ground: Ground

    @property
    def action(self) -> Any:
        return self.guard.action if self.guard else self.instant

    @cached_property
    def facts(self) -> tuple[str, ...]:
        """The phrases that carry what its rows tell."""
        return phrases_of(self.rows, self.ground.frequent)


class Parts(NamedTuple):
    """A prompt as scopes divide it. `input`: the last user turn and what follows; a prompt without one is both."""

    input: str
    context: str
    whole: str

    @classmethod
    def of(cls, prompt: Prompt | str) -> Parts:
        """A text is a prompt of one user turn."""
        if isinstance(prompt, str):
            return cls(prompt, "", prompt)
        last = max((i for i, turn in enumerate(prompt.messages) if turn.role == "user"), default=None)
        if last is None:
            return cls(prompt.text, prompt.text if prompt.messages else "", prompt.text)
        before = "\n".join(turn.content for turn in prompt.messages[:last])
        return cls(Prompt(prompt.messages[last:], prompt.prefill).text, before, prompt.text)

    @property
    def seam(self) -> str:
        """Where both meet, for what begins in the one and ends in the other; empty where one of them is."""
        if not self.input or not self.context:
            return ""
        before, after = self.context[-SEAM:], self.input[:SEAM]
        if len(before) < len(self.context):
            before = before.partition(" ")[2] or before
        if len(after) < len(self.input):
            after = after.rpartition(" ")[0] or after
        return f"{before}\n{after}"

    def under(self, scope: Scope) -> str:
        """What is read for a request of this scope."""
        if scope.input and scope.context:
            return self.whole
        return self.input if scope.input else self.context if scope.context else ""


class Shelf(NamedTuple):
    """The requests of one tenant and scope."""

    requests: int = 0
    named: int = 0
    chunks: tuple[Chunk, ...] = ()

    def changed(
        self, gone: Sequence[Enforced], come: Sequence[Enforced], questions: Sequence[Chunk], ground: Ground
    ) -> Shelf:
        chunks = self.chunks
        owners = frozenset(enforced.request for enforced in gone)
        if owners and ground.background:
            left = [
                chunk if owners.isdisjoint(chunk.owners) else chunk.without(owners, ground.background)
                for chunk in chunks
            ]
            chunks = tuple(chunk for chunk in left if chunk)
        for chunk in questions:
            at = min(range(len(chunks)), key=lambda i: chunks[i].requests, default=None)
            if at is None or chunks[at].requests + chunk.requests > CHUNK:
                chunks = (*chunks, chunk)
            else:
                chunks = (*chunks[:at], chunks[at].beside(chunk), *chunks[at + 1 :])
        named = sum(enforced.named for enforced in come) - sum(enforced.named for enforced in gone)
        return Shelf(self.requests + len(come) - len(gone), self.named + named, chunks)


class View(NamedTuple):
    """What binds one tenant."""

    shelves: tuple[tuple[Scope, Shelf], ...]
    threshold: float
    """One for all its requests together, so that false alarms do not add up with their number."""
    guards: tuple[Enforced, ...]


Shelves = Mapping[str, Mapping[Scope, Shelf]]


class Snapshot:
    def __init__(
        self,
        ground: Ground,
        epoch: int = 0,
        enforced: Mapping[str, Enforced] | None = None,
        shelves: Shelves | None = None,
    ):
        """`enforced`: by request, in the order of arrival; `shelves`: by tenant and scope."""
        self.ground, self.epoch = ground, epoch
        self._enforced, self._shelves = enforced or {}, shelves or {}
        self._guards = tuple(found for found in self._enforced.values() if found.guard)
        self._views: dict[str, View] = {}
        self._joined: dict[tuple[str, ...], Any] = {}

    @property
    def requests(self) -> tuple[str, ...]:
        """Those in force, in the order in which they were added."""
        return tuple(self._enforced)

    def __contains__(self, request: str) -> bool:
        return request in self._enforced

    def __getitem__(self, request: str) -> Enforced:
        return self._enforced[request]

    def changed(
        self,
        epoch: int,
        gone: Sequence[Enforced] = (),
        come: Sequence[Enforced] = (),
        questions: Mapping[tuple[str, Scope], Sequence[Chunk]] | None = None,
    ) -> Snapshot:
        """The next one. `questions`: of those that come, by tenant and scope."""
        enforced = dict(self._enforced)
        for found in gone:
            del enforced[found.request]
        enforced |= {found.request: found for found in come}
        shelves = dict(self._shelves)
        for place in {(found.tenant, found.scope) for found in (*gone, *come)}:
            tenant, scope = place
            mine = [
                [found for found in side if (found.tenant, found.scope) == place] for side in (gone, come)
            ]
            own = dict(shelves.get(tenant, {}))
            own[scope] = own.get(scope, Shelf()).changed(*mine, (questions or {}).get(place, ()), self.ground)
            shelves[tenant] = {scope: shelf for scope, shelf in own.items() if shelf.requests}
            if not shelves[tenant]:
                del shelves[tenant]
        return Snapshot(self.ground, epoch, enforced, shelves)

    def guarded(self, epoch: int, enforced: Enforced) -> Snapshot:
        """The next one, in which a request has another guard and is else the same."""
        return Snapshot(self.ground, epoch, {**self._enforced, enforced.request: enforced}, self._shelves)

    # --- deciding -----------------------------------------------------------------------------------------------------------
    def decide(self, prompts: Sequence[Prompt | str], tenant: str = "") -> list[Decision]:
        """Which requests each prompt falls under, and what answers it. Requests of other tenants change nothing.

        Whatever a guard's detector raises is raised.
        """
        view = self._view(tenant)
        parts = [Parts.of(prompt) for prompt in prompts]
        fired = {found: self._fired(found, view, tenant) for found in parts}
        for enforced in view.guards:
            read = {found: text for found in fired if (text := found.under(enforced.scope))}
            flags = enforced.guard.flags(list(read.values())) if read and enforced.guard else []
            for found, flag in zip(read, flags, strict=True):
                if flag:
                    fired[found].add(enforced.request)
        return [self._decision(fired[found]) for found in parts]

    def _view(self, tenant: str) -> View:
        if tenant not in self._views:
            tenants = dict.fromkeys(("", tenant))
            shelves = [pair for name in tenants for pair in self._shelves.get(name, {}).items()]
            near = [chunk.near for _, shelf in shelves for chunk in shelf.chunks]
            guards = tuple(found for found in self._guards if found.tenant in tenants)
            self._views[tenant] = View(tuple(shelves), _threshold(near, self.ground.share), guards)
        return self._views[tenant]

    def _visible(self, tenant: str, seen: Callable[[Scope], bool]) -> Callable[[str], bool]:
        """Whether an owner's request binds the tenant and `seen` says so of its scope."""

        def visible(owner: str) -> bool:
            found = self._enforced.get(owner)
            return found is not None and found.tenant in ("", tenant) and seen(found.scope)

        return visible

    def _fired(self, parts: Parts, view: View, tenant: str) -> set[str]:
        fired: set[str] = set()
        met: dict[tuple[int, ...], dict[str, None]] = {}
        for text, seen in _readings(parts):
            shelves = [shelf for scope, shelf in view.shelves if seen(scope)]
            if not shelves:
                continue
            canonical = canonicalise(text)
            readings = (canonical.text, *canonical.views)
            if any(shelf.named for shelf in shelves):
                visible = self._visible(tenant, seen)
                fired |= {
                    hit.owner
                    for reading in readings
                    for hit in self.ground.names.find(reading, visible)
                    if hit.owner is not None
                }
            chunks = [chunk for shelf in shelves for chunk in shelf.chunks]
            known = met.setdefault(tuple(map(id, chunks)), {})
            new = dict.fromkeys(part for reading in readings for part in pieces(reading) if part not in known)
            if chunks and new:
                rows = self.ground.encoder.encode(list(new))
                fired |= nearest_owners(rows, chunks, view.threshold)
                known |= new
        return fired

    def _decision(self, requests: Iterable[str]) -> Decision:
        met = sorted((self._enforced[request] for request in requests), key=lambda found: found.number)
        key = tuple(found.request for found in met)
        if len(met) < 2:
            return Decision(key, met[0].action if met else None)
        joined = self._joined
        if key not in joined:
            if len(joined) >= COMBINED:
                self._joined = joined = {}
            joined.setdefault(key, self._one_action([found.action for found in met]))
        return Decision(key, joined[key])

    def _one_action(self, actions: Sequence[Any]) -> Any:
        """What answers a text under several requests: the actions joined where they can be, else a refusal."""
        kinds = {type(action) for action in actions}
        if len(kinds) == 1 and hasattr(actions[0], "joined"):
            return actions[0].joined(actions[1:], self.ground.model)
        refusals = (action for action in actions if isinstance(action, FittedRefuse))
        return next(refusals, FittedRefuse(Refuse().text))

    # --- what is written ------------------------------------------------------------------------------------------------------
    def watch(self, prompt: Prompt | str, decision: Decision, tenant: str = "") -> Watch | None:
        """What the answer to a prompt may not hold: names and statements of all requests that bind the tenant, and the facts of
        those that the prompt falls under. Names that stand in the prompt may be written, and what begins in it may not be
        finished. None where nothing is watched.
        """
        facts = self._facts(decision.requests)
        named = any(shelf.named for scope, shelf in self._view(tenant).shelves if scope.output)
        if not named and not facts:
            return None
        watched = self._visible(tenant, lambda scope: scope.output)
        whole = prompt if isinstance(prompt, str) else prompt.text
        return Watch(self.ground.names, watched, whole, facts, before_of(prompt))

    def _facts(self, requests: Sequence[str]) -> Phrases | None:
        met = (self._enforced.get(request) for request in requests)
        phrases = [phrase for found in met if found and found.scope.output for phrase in found.facts]
        return Phrases(phrases) if phrases else None


def before_of(prompt: Prompt | str) -> str:
    """What an answer to the prompt goes on from, in the same line or on the next."""
    if isinstance(prompt, str):
        return f"{prompt}\n"
    return prompt.text if prompt.prefill or not prompt.messages else f"{prompt.text}\n"


def _readings(parts: Parts) -> list[tuple[str, Callable[[Scope], bool]]]:
    """The texts to be read, and of which scopes."""
    readings: list[tuple[str, Callable[[Scope], bool]]] = [
        (parts.input, lambda scope: scope.input),
        (parts.context, lambda scope: scope.context),
        (parts.seam, lambda scope: scope.input and scope.context),
    ]
    return [(text, seen) for text, seen in readings if text]


def _threshold(near: Sequence[np.ndarray], share: float) -> float:
    """How near is too near for all but a share of the background prompts: a hair above what the last of them reaches."""
    if not near:
        return np.inf
    worst = np.sort(np.max(near, axis=0))
    rank = int(np.ceil((1 - share) * (len(worst) + 1)))  # of n + 1 exchangeable prompts
    return max(LEAST_NEAR, float(np.nextafter(worst[rank - 1], np.inf)))
