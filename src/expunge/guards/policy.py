"""Many removal requests in force at once before one model: each is added in an instant, and withdrawn without a trace.

What a request names is found by one index of names and one of questions, whatever the number of requests; a guard that was fitted
brings its own detector and costs what that costs. The policy suppresses; it erases nothing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expunge.errors import ConfigError, DataError
from expunge.guards.actions.refuse import FittedRefuse, Refuse
from expunge.guards.aliases import AliasIndex
from expunge.guards.canonical import canonicalise
from expunge.guards.detection import pieces
from expunge.guards.guard import FitData, Guard, Place
from expunge.guards.neighbours import HashedNgrams, NeighbourIndex
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score

if TYPE_CHECKING:
    from expunge.data.dataset import Record

ALPHA = 0.01
"""Share of the background prompts that may be as near to a request's questions as what is flagged, over all requests together."""

COMMON = 0.02
"""What stands in more of the background prompts than this tells no question from another, and would make every prompt meet every
request."""
LEAST = math.ceil(1 / ALPHA) - 1
"""Background prompts that such a share can be calibrated on."""


class Decision(NamedTuple):
    """What the policy makes of one text."""

    requests: tuple[str, ...]
    """The requests that it falls under, in the order in which they were added."""
    action: Any = None
    """What answers it; None: the plain model."""


@dataclass(frozen=True)
class _Enforced:
    number: int
    """In the order of arrival."""
    action: Any
    near_background: np.ndarray | None = None
    """[background] how near its questions come to prompts that must pass."""


class Policy:
    """Requests before a model, under the same contract as the model. Safe to use and to change from several threads."""

    capabilities = frozenset()

    def __init__(
        self, model: LanguageModel, background: Sequence[str] = (), known: Sequence[str] = (), seed: int = 0
    ):
        """`background`: prompts that must pass, such as those of a retain set. Without any, likeness to a request's questions
        cannot be calibrated, and requests are found by names alone. `known`: names of people who stay; where one of them fits
        better, nobody else is meant. Raises DataError for too few background prompts.
        """
        self.model, self.seed = model, seed
        self.background = tuple(background)
        read = [canonicalise(text).text for text in background]
        self._encoder = HashedNgrams.fit(read, COMMON)
        self._background_rows = self._encoder.encode(read)
        self._names, self._questions = AliasIndex(known), NeighbourIndex(self._encoder)
        self._enforced: dict[str, _Enforced] = {}
        self._guards: dict[str, Guard] = {}
        self._arrivals = 0
        if self.background and len(self.background) < LEAST:
            raise DataError(
                f"{len(self.background)} background prompts are too few to hold false alarms at {ALPHA:g}; give at least {LEAST}, or none: "
                "requests are then found by names alone."
            )
        self._threshold = np.inf
        self._joined: dict[tuple[str, ...], Any] = {}
        self._lock = threading.RLock()

    @property
    def requests(self) -> tuple[str, ...]:
        """Those in force, in the order in which they were added."""
        return tuple(self._enforced)

    # --- adding and withdrawing -----------------------------------------------------------------------------------------
    def add(self, request: str, rows: Sequence[Record], action: Any = None) -> None:
        """Put a request in force at once, from its names ('subject', 'aliases') and questions. `action`: a refusal by default.

        Raises DataError for a request that is there already or names and asks nothing, ConfigError for an action that has to train.
        """
        names = tuple(dict.fromkeys(n for row in rows for n in (row.subject, *row.aliases) if n))
        questions = tuple(dict.fromkeys(row.question or row.text for row in rows if row.shape != "subject"))
        if not names and not (questions and self.background):
            raise DataError(
                f"request '{request}' names nobody"
                + (", and without background prompts nothing is found by its questions" * bool(questions))
                + ". Add a 'subject' (and 'aliases') to its rows."
            )
        data = FitData(rows, [], names, rows, self.seed, Place(Path(), _no_model), _no_training(request))
        fitted = (action or Refuse()).fit(self.model, data)
        near = None
        with self._lock:
            self._refuse_known(request)
            self._names.add(request, names)
            if questions and self.background:
                read = [canonicalise(question).text for question in questions]
                self._questions.add(request, read)
                alone = NeighbourIndex(self._encoder)
                alone.add(request, read)
                near, _ = alone.nearest_rows(self._background_rows)
            self._enforced[request] = _Enforced(self._arrived(), fitted, near)
            self._calibrate()

    def add_guard(self, request: str, guard: Guard) -> None:
        """Put a fitted guard in force: its own detector decides. Raises DataError for a request that is there already or a guard
        of another model.
        """
        if guard.model is not self.model:
            raise DataError(
                f"request '{request}': the guard stands before another model than this policy. Load it with ex.load(RUN, before=policy.model)."
            )
        with self._lock:
            self._refuse_known(request)
            self._enforced[request] = _Enforced(self._arrived(), guard.action)
            self._guards[request] = guard
            self._joined.clear()

    def withdraw(self, request: str) -> None:
        """Afterwards every decision is what it was without the request. Raises DataError for one that is not in force."""
        with self._lock:
            if request not in self._enforced:
                raise DataError(
                    f"request '{request}' is not in force. In force: {', '.join(self.requests) or 'none'}."
                )
            gone = self._enforced.pop(request)
            if not self._guards.pop(request, None):
                self._names.remove(request)
                if gone.near_background is not None:
                    self._questions.remove(request)
            self._calibrate()

    def _arrived(self) -> int:
        self._arrivals += 1
        return self._arrivals

    def _refuse_known(self, request: str) -> None:
        if request in self._enforced:
            raise DataError(
                f"request '{request}' is in force already. Withdraw it first, or give this one another name."
            )

    def _calibrate(self) -> None:
        """One threshold for all requests together, so that false alarms do not add up with their number."""
        near = [
            found.near_background for found in self._enforced.values() if found.near_background is not None
        ]
        self._threshold = np.inf
        if near:
            worst = np.sort(np.max(near, axis=0))
            rank = math.ceil((1 - ALPHA) * (len(worst) + 1))  # of n + 1 exchangeable prompts
            self._threshold = float(np.nextafter(worst[rank - 1], np.inf))
        self._joined.clear()

    # --- deciding -----------------------------------------------------------------------------------------------------------
    def decide(self, texts: Sequence[str]) -> list[Decision]:
        """Which requests each text falls under, and what answers it."""
        with self._lock:
            fired = {text: self._fired(text) for text in texts}
            for request, guard in self._guards.items():
                for text, flag in zip(fired, guard.flags(list(fired)), strict=True):
                    if flag:
                        fired[text].add(request)
            return [
                self._decision(sorted(fired[text], key=lambda request: self._enforced[request].number))
                for text in texts
            ]

    def _fired(self, text: str) -> set[str]:
        canonical = canonicalise(text)
        readings = (canonical.text, *canonical.views)
        fired = {
            hit.owner for reading in readings for hit in self._names.find(reading) if hit.owner is not None
        }
        if np.isfinite(self._threshold):
            parts = [part for reading in readings for part in pieces(reading)]
            fired |= {owner for score, owner in self._questions.nearest(parts) if not score < self._threshold}
        return fired

    def _decision(self, requests: Sequence[str]) -> Decision:
        key = tuple(requests)
        if key not in self._joined:
            self._joined[key] = self._one_action([self._enforced[request].action for request in requests])
        return Decision(key, self._joined[key])

    def _one_action(self, actions: Sequence[Any]) -> Any:
        """What answers a text under several requests: the actions joined where they can be, else a refusal."""
        if len(actions) < 2:
            return actions[0] if actions else None
        kinds = {type(action) for action in actions}
        if len(kinds) == 1 and hasattr(actions[0], "joined"):
            return actions[0].joined(actions[1:], self.model)
        refusals = (action for action in actions if isinstance(action, FittedRefuse))
        return next(refusals, FittedRefuse(Refuse().text))

    # --- answering ------------------------------------------------------------------------------------------------------------
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
        decided = self.decide([row.text for row in rows])
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
