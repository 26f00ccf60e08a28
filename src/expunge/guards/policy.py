"""Many removal requests in force at once before one model: each is added in an instant, and withdrawn without a trace.

What a request names is found by one index of names and one of questions, whatever the number of requests; a guard that was fitted
brings its own detector and costs what that costs. What is enforced at a moment is a `Snapshot`; a change makes the next one and
puts it in place by one assignment. The policy suppresses; it erases nothing.
"""

from __future__ import annotations

import gc
import math
import re
import threading
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expunge.errors import ConfigError, DataError
from expunge.guards.actions.refuse import Refuse
from expunge.guards.aliases import WORD, AliasIndex
from expunge.guards.canonical import fold
from expunge.guards.detection import WINDOW
from expunge.guards.guard import FitData, Guard, Place
from expunge.guards.neighbours import CHUNK, Background, Chunk, HashedNgrams
from expunge.guards.phrases import STOP_WORDS
from expunge.guards.snapshot import EVERYWHERE, Decision, Enforced, Ground, Snapshot
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Scope, Score

if TYPE_CHECKING:
    from expunge.data.dataset import Record

ALPHA = 0.01
"""Share of the background prompts that may be as near to a request's questions as what is flagged, over all requests together."""

COMMON = 0.02
"""What stands in more of the background prompts than this tells no question from another, and would make every prompt meet every
request."""
LEAST = math.ceil(1 / ALPHA) - 1
"""Background prompts that such a share can be calibrated on."""
CLEAR = 1 / 3
"""Of the way from the same question about nobody to the question itself: a prompt has to come so far to be like it."""
SAYING = 6
"""Words that a sentence of a long text needs to be watched for as it stands."""
NOBODY = "xqzjvwkqxzvjqwxkzqvjxwqkz"
_SENTENCE = re.compile(r"(?<=[.?!。？！])\s+|\n+")


class Policy:
    """Requests before a model, under the same contract as the model. Safe to use and to change from several threads."""

    capabilities = frozenset()

    def __init__(
        self,
        model: LanguageModel,
        background: Sequence[str] = (),
        known: Sequence[str] = (),
        seed: int = 0,
        answers: Sequence[str] = (),
    ):
        """`background`: prompts that must pass, such as those of a retain set. Without any, likeness to a request's questions
        cannot be calibrated, and requests are found by names alone. `known`: names of people who stay; where one of them fits
        better, nobody else is meant. `answers`: texts that give nothing away, such as the answers of a retain set: what is frequent
        in them or in the background is no fact that has to be held back. Raises DataError for too few background prompts.
        """
        self.model, self.seed = model, seed
        self.background = tuple(background)
        if self.background and len(self.background) < LEAST:
            raise DataError(
                f"{len(self.background)} background prompts are too few to hold false alarms at {ALPHA:g}; give at least {LEAST}, or none: "
                "requests are then found by names alone."
            )
        read = [fold(text)[0] for text in background]
        encoder = HashedNgrams.fit(read, COMMON, STOP_WORDS)
        rows = Background(encoder.encode(read)) if read else None
        ordinary = (*self.background, *answers)
        self._ground = Ground(model, AliasIndex(known), encoder, rows, ALPHA, ordinary)
        self._snapshot = Snapshot(self._ground)
        self._arrivals = 0
        self._writing = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """What is enforced now."""
        return self._snapshot

    @property
    def requests(self) -> tuple[str, ...]:
        """Those in force, in the order in which they were added."""
        return self._snapshot.requests

    # --- adding and withdrawing -----------------------------------------------------------------------------------------
    def add(
        self, request: str, rows: Sequence[Record], action: Any = None, *,
        tenant: str = "", scope: Scope = EVERYWHERE, epoch: int | None = None,
    ) -> None:  # fmt: skip
        """Put a request in force at once, from its names ('subject', 'aliases'), statements ('text') and questions. `action`: a
        refusal by default. `epoch`: the number of the snapshot that holds it; by default the next one.

        Raises DataError for a request that is there already or names and asks nothing, ConfigError for an action that has to train.
        """
        self.add_many([(request, rows, action, {"tenant": tenant, "scope": scope})], epoch)

    def add_many(
        self,
        items: Iterable[tuple[str, Sequence[Record], Any, Mapping[str, Any]]],
        epoch: int | None = None,
    ) -> None:
        """Put requests in force at one moment, each with its rows, its action (None: a refusal) and its `tenant` and `scope`, where it
        has them. Where one of them cannot be, none is, and what `add` raises is raised.
        """
        with without_collection():
            ready = [self._ready(request, rows, action, **where) for request, rows, action, where in items]
            with self._writing:
                seen: set[str] = set()
                for one in ready:
                    self._refuse_known(one.request, seen)
                    seen.add(one.request)
                self._enforce(ready, epoch)

    def add_guard(
        self, request: str, guard: Guard, *,
        tenant: str = "", scope: Scope = EVERYWHERE, epoch: int | None = None,
    ) -> None:  # fmt: skip
        """Put a fitted guard in force: its own detector decides. Raises DataError for a request that is there already or a guard
        of another model.
        """
        self._refuse_foreign(request, guard)
        with self._writing:
            self._refuse_known(request)
            enforced = Enforced(request, self._arrived(), tenant, scope, (), False, None, guard, self._ground)
            self._snapshot = self._snapshot.changed(self._next(epoch), come=[enforced])

    def replace(self, request: str, guard: Guard, *, epoch: int | None = None) -> None:
        """Put a fitted guard in the place of a request's action: from here on it answers. What its names and questions found before
        is found still, and what the guard's detector finds as well. Raises DataError for a request that is not in force or a
        guard of another model.
        """
        self._refuse_foreign(request, guard)
        with self._writing:
            enforced = replace(self._known(request), guard=guard)
            self._snapshot = self._snapshot.guarded(self._next(epoch), enforced)

    def withdraw(self, request: str, *, epoch: int | None = None) -> None:
        """Afterwards every decision is what it was without the request. Raises DataError for one that is not in force."""
        with self._writing:
            self._snapshot = self._snapshot.changed(self._next(epoch), gone=[self._known(request)])
            self._ground.names.remove(request)

    def action(self, request: str) -> Any:
        """The fitted action that answers what falls under a request alone. Raises DataError for one that is not in force."""
        return self._known(request).action

    def fitted(self, request: str, rows: Sequence[Record], action: Any = None) -> Any:
        """The action that would answer for a request, which is not put in force. Raises what `add` would raise for these."""
        return self._ready(request, rows, action).action

    def _ready(
        self, request: str, rows: Sequence[Record], action: Any, tenant: str = "", scope: Scope = EVERYWHERE
    ) -> _Ready:
        """All that can be done before it is in force."""
        names = tuple(dict.fromkeys(n for row in rows for n in (row.subject, *row.aliases) if n))
        sayings = tuple(dict.fromkeys(s for row in rows if row.shape == "text" for s in _sayings(row.text)))
        questions = tuple(dict.fromkeys(row.question or row.text for row in rows if row.shape != "subject"))
        if not names and not sayings and not (questions and self.background):
            raise DataError(
                f"request '{request}' names nobody"
                + (", and without background prompts nothing is found by its questions" * bool(questions))
                + ". Add a 'subject' (and 'aliases') to its rows."
            )
        data = FitData(rows, [], names, rows, self.seed, Place(Path(), _no_model), _no_training(request))
        fitted = (action or Refuse()).fit(self.model, data)
        asks = self.background and (scope.input or scope.context)
        read = [fold(question)[0] for question in questions] if asks else []
        return _Ready(request, tuple(rows), names, sayings, read, fitted, tenant, scope)

    def _enforce(self, ready: Sequence[_Ready], epoch: int | None) -> None:
        """The next snapshot. Names stand in the index before it is in place."""
        names = self._ground.names
        try:
            for one in ready:
                names.add(one.request, one.names, one.sayings)
            come = [
                Enforced(
                    one.request, self._arrived(), one.tenant, one.scope, one.rows, bool(one.names or one.sayings),
                    one.action, None, self._ground,
                )
                for one in ready
            ]  # fmt: skip
            self._snapshot = self._snapshot.changed(
                self._next(epoch), come=come, questions=self._chunks(ready)
            )
        except BaseException:
            for one in ready:
                names.remove(one.request)
            raise

    def _chunks(self, ready: Sequence[_Ready]) -> dict[tuple[str, Scope], list[Chunk]]:
        """The questions of requests by tenant and scope."""
        places: dict[tuple[str, Scope], list[_Ready]] = {}
        for one in ready:
            if one.questions:
                places.setdefault((one.tenant, one.scope), []).append(one)
        return {
            place: [self._chunk(found[i : i + CHUNK]) for i in range(0, len(found), CHUNK)]
            for place, found in places.items()
        }

    def _chunk(self, ready: Sequence[_Ready]) -> Chunk:
        assert self._ground.background is not None, "questions are read where there is a background"
        asked = [(one, question) for one in ready for question in one.questions]
        rows = self._ground.encoder.encode([question for _, question in asked])
        others = self._ground.encoder.encode([_of_nobody(question, one.names) for one, question in asked])
        alike = rows.multiply(others).sum(axis=1)
        named = [_of_nobody(question, one.names) != question for one, question in asked]
        floors = np.where(named, alike + CLEAR * (1 - alike), 0)
        return Chunk.of([one.request for one, _ in asked], rows, self._ground.background, floors)

    def _arrived(self) -> int:
        self._arrivals += 1
        return self._arrivals

    def _next(self, epoch: int | None) -> int:
        return self._snapshot.epoch + 1 if epoch is None else epoch

    def _known(self, request: str) -> Enforced:
        if request not in self._snapshot:
            raise DataError(
                f"request '{request}' is not in force. In force: {', '.join(self.requests) or 'none'}."
            )
        return self._snapshot[request]

    def _refuse_known(self, request: str, others: Container[str] = ()) -> None:
        if request in self._snapshot or request in others:
            raise DataError(
                f"request '{request}' is in force already. Withdraw it first, or give this one another name."
            )

    def _refuse_foreign(self, request: str, guard: Guard) -> None:
        if guard.model is not self.model:
            raise DataError(
                f"request '{request}': the guard stands before another model than this policy. Load it with ex.load(RUN, before=policy.model)."
            )

    # --- deciding and answering ---------------------------------------------------------------------------------------------
    def decide(self, prompts: Sequence[Prompt | str], tenant: str = "") -> list[Decision]:
        """Which requests each prompt falls under, and what answers it."""
        return self._snapshot.decide(prompts, tenant)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        return self._by_action(
            examples, lambda action, rows, flags: action.score(self.model, rows, flags), self.model.score
        )

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        return self._by_action(
            prompts,
            lambda action, rows, flags: action.generate(self.model, rows, params, flags),
            lambda rows: self.model.generate(rows, params),
        )

    def _by_action(self, rows: Sequence[Any], guarded: Callable[..., Any], plain: Callable[..., Any]) -> Any:
        """Each row answered by its action. Rows of one action run together with those that pass, as under a single guard."""
        decided = self.decide([_asked(row) for row in rows])
        actions = list(dict.fromkeys(decision.action for decision in decided if decision.action is not None))
        if not actions:
            return plain(rows)
        found: list[Any] = [None] * len(rows)
        for number, action in enumerate(actions):
            mine = [
                i for i, decision in enumerate(decided)
                if decision.action is action or (decision.action is None and number == 0)
            ]  # fmt: skip
            flags = [decided[i].action is action for i in mine]
            for i, answer in zip(mine, guarded(action, [rows[i] for i in mine], flags), strict=True):
                found[i] = answer
        return found


class _Ready(NamedTuple):
    """A request before it is in force."""

    request: str
    rows: tuple[Record, ...]
    names: Sequence[str]
    sayings: Sequence[str]
    questions: Sequence[str]
    """As they are read."""
    action: Any
    tenant: str
    scope: Scope


@contextmanager
def without_collection() -> Generator[None]:
    """Nothing that is made here is garbage, and looking for some among ten thousand requests takes a third of the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _asked(row: Prompt | Example) -> Prompt | str:
    if isinstance(row, Prompt):
        return row
    return row.prompt or row.answer


def _of_nobody(question: str, names: Sequence[str]) -> str:
    """A question as it is read, with letters in place of the names that no name is made of."""
    own = {word for name in names for word in WORD.findall(fold(name)[0])} - STOP_WORDS
    return WORD.sub(
        lambda word: NOBODY[: len(word.group())] if word.group() in own else word.group(), question
    )


def _sayings(text: str) -> list[str]:
    """What of a text is found where it is said word for word: a short one whole, of a longer one its sentences, cut where they are
    long themselves. Its shortest sentences say too little.
    """
    if len(text.split()) <= WINDOW:
        return [text]
    sentences = [sentence.split() for sentence in _SENTENCE.split(text)]
    return [
        " ".join(words[i : i + WINDOW])
        for words in sentences
        for i in range(0, len(words), WINDOW)
        if len(words[i : i + WINDOW]) >= SAYING
    ]


def _no_model(name: str) -> LanguageModel:
    raise ConfigError(
        f"a request that takes effect at once opens no other model ('{name}'). Fit a guard and add that."
    )


def _no_training(request: str) -> Callable[..., Path]:
    def make(part: str, method: str, *rows: Any, **settings: Any) -> Path:
        raise ConfigError(
            f"request '{request}': this action trains ({method}) and cannot take effect at once.\n"
            "Put a refusal in force now, fit the guard (expunge guard fit), then add it in its place."
        )

    return make
