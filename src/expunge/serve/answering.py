"""One answer as it is written: backend, output watch, stop strings.

The watch comes first and reads all that the model writes. A stop string is looked for in what it lets through: it tells nothing of
what is held back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.guards.actions.refuse import FittedRefuse
from expunge.guards.snapshot import Decision, Snapshot, before_of
from expunge.guards.watching import Seen, Watch
from expunge.serve.answers import Delta, Usage
from expunge.serve.auth import Access
from expunge.serve.backend import Ask, BackendError, BusyError, Piece
from expunge.serve.limits import Reservation
from expunge.serve.stops import Stops
from expunge.serve.wire import ChatRequest, CompletionRequest
from expunge.serve.wire_errors import ApiError, busy, guard_unavailable, trace
from expunge.types import GenerationParams, Prompt, Seed

if TYPE_CHECKING:
    from expunge.serve.gateway import Gateway

log = logging.getLogger("expunge.serve")


class Looked(NamedTuple):
    """A prompt that was decided on."""

    snapshot: Snapshot
    decision: Decision
    epoch: int
    """Of the ledger that was in force."""
    tokens: int
    """Of the prompt."""
    seconds: float
    watches: tuple[Watch, ...] = ()
    """One for each answer to it."""


class Answer:
    """The answers to one admitted request. Close it: that ends all work on it."""

    def __init__(
        self,
        gateway: Gateway,
        body: ChatRequest | CompletionRequest,
        access: Access,
        looked: Looked,
        action: Any,
        requests: tuple[str, ...],
        most: int,
        reservation: Reservation | None,
        plain: bool,
    ):
        self._gateway, self._body, self._access, self._looked = gateway, body, access, looked
        self.action, self.requests, self._most, self._reservation = action, requests, most, reservation
        self._plain, self._prompt = plain, body.prompt_read
        self._seed = Seed(secrets.randbits(62) if body.seed is None else body.seed)
        self._written = [0] * body.n
        self._closed = False
        self._start = gateway.clock()
        self._shown_any = False

    @property
    def epoch(self) -> int:
        return self._looked.epoch

    @property
    def limits(self) -> dict[str, str]:
        """Headers that tell what the key has left."""
        return self._reservation.headers if self._reservation else {}

    @property
    def usage(self) -> Usage:
        return Usage(self._looked.tokens, sum(self._written))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._gateway.running -= self._body.n
        if self._reservation:
            self._reservation.settle(sum(self.usage))
        self._gateway.telemetry.tokens.labels("prompt").inc(self.usage.prompt_tokens)
        self._gateway.telemetry.tokens.labels("answer").inc(self.usage.completion_tokens)

    async def deltas(self) -> AsyncGenerator[Delta]:
        """What may be shown, as it comes, of all answers. Raises ApiError; closing the generator ends the backend's work."""
        answers = [self._one(index) for index in range(self._body.n)]
        merged = answers[0] if len(answers) == 1 else _merged(answers)
        async with aclosing(merged):
            try:
                async for delta in merged:
                    if not self._shown_any and delta.text:
                        self._shown_any = True
                        self._gateway.telemetry.first_seconds.observe(
                            self._gateway.clock() - self._start + self._looked.seconds
                        )
                    yield delta
            except BusyError:
                self._gateway.telemetry.limited.labels("backend").inc()
                raise busy("The model is busy.") from None
            except BackendError as error:
                self._gateway.telemetry.backend_errors.inc()
                log.error(
                    "the model failed: %s%s", error, f"\n{trace(error.__cause__)}" if error.__cause__ else ""
                )
                raise ApiError(503, "The model cannot answer now.", "backend_unavailable", headers={"Retry-After": "5"}) from None  # fmt: skip

    async def _one(self, index: int) -> AsyncGenerator[Delta]:
        stops = Stops(self._body.stops)
        watch = None if self._plain else self._looked.watches[index]
        snapshot = self._looked.snapshot
        shown, tokens = "", 0
        marks = [(0, 0)]
        """Characters and tokens written by each piece."""
        likely: list[tuple[str, float]] = []
        source = self._pieces(index)
        async with aclosing(source):
            async for piece in source:
                marks.append((marks[-1][0] + len(piece.text), piece.tokens))
                likely += piece.logprobs
                text, finish, owner = piece.text, piece.finish, None
                if watch is not None:
                    now = await self._gateway.snapshot()
                    if now is not snapshot:  # a request that comes in mid-stream holds for the rest
                        snapshot, watch.watched = now, watched_in(now, self._access.tenant)
                    text, owner = self._watched(watch, text, finish)
                    if owner is not None:
                        finish = "content_filter"
                text, stopped = stops.feed(text, bool(finish))
                if stopped:
                    finish = "stop"
                elif owner is not None:
                    self._stopped(owner)
                shown += text
                whole = finish == piece.finish
                tokens = piece.tokens if whole else next(n for length, n in marks if length >= len(shown))
                self._written[index] = tokens
                if text or finish:
                    pairs: tuple[tuple[str, float], ...] = ()
                    if finish:
                        pairs = tuple(likely) if marks[-1][0] == len(shown) else _within(shown, likely)
                    yield Delta(index, text, finish, tokens, pairs)
                if finish:
                    return
        raise BackendError("the answer broke off without an end")

    def _stopped(self, owner: str) -> None:
        if not self._access.id.startswith("own-"):
            requests = self._gateway.enforcer.shown([owner] if owner else self._looked.decision.requests)
            self._gateway.telemetry.decided(
                self._access.tenant, requests, "output", "stop", 0.0, self._gateway.enforcer.epoch
            )

    def _watched(self, watch: Watch, text: str, finish: str) -> Seen:
        """Raises ApiError where the watch breaks: nothing more is shown then."""
        try:
            seen = watch.feed(text, bool(finish), cut=finish == "length")
        except Exception as error:
            self._gateway.telemetry.guard_failures.inc()
            log.error("the output watch broke, so the answer ends: %s", trace(error))
            raise guard_unavailable() from None
        self._gateway.telemetry.held.observe(watch.held)
        return seen

    async def _pieces(self, index: int) -> AsyncGenerator[Piece]:
        """From the backend, or from us where the action is a refusal."""
        body, gateway = self._body, self._gateway
        if isinstance(self.action, FittedRefuse):
            source = gateway.refusals.say(
                self.action.text, self._looked.tokens, self._most, body.wants_logprobs
            )
        else:
            params = GenerationParams(
                max_new_tokens=self._most,
                sample=body.temperature > 0,
                temperature=body.temperature or 1.0,
                top_p=body.top_p,
                seed=self._seed.child("choice", index).number,
            )
            source = gateway.backend.stream(
                Ask(self._prompt, params, self.action, self._access.tenant, body.wants_logprobs)
            )
            if self.action is None:
                source = self._measured(source)
            elif body.stream:
                source = self._in_pieces(source)
        async with aclosing(source):
            async for piece in source:
                yield piece

    async def _in_pieces(self, source: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        """Actions that ask the model by themselves give their answers whole; nobody is to tell them by that."""
        first = True
        async with aclosing(source):
            async for piece in source:
                if first and piece.finish:
                    async for part in self._gateway.refusals.told(piece):
                        yield part
                else:
                    yield piece
                first = False

    async def _measured(self, source: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        """Teaches the pace of unguarded answers to refusals."""
        gateway, before = self._gateway, self._gateway.clock()
        waits: list[float] = []
        try:
            async with aclosing(source):
                async for piece in source:
                    waits.append(gateway.clock() - before)
                    waits += [0.0] * (piece.tokens - len(waits))  # that came with it
                    yield piece
                    before = gateway.clock()  # what the client takes to read is no pace of the model's
        finally:
            gateway.pace.learn(self._looked.tokens, waits)


def watch_of(snapshot: Snapshot, prompt: Prompt, decision: Decision, tenant: str) -> Watch:
    """What follows an answer to its end. There is one even where nothing is watched for yet."""
    return snapshot.watch(prompt, decision, tenant) or Watch(
        snapshot.ground.names, _nobody, prompt.text, before=before_of(prompt)
    )


def watched_in(snapshot: Snapshot, tenant: str) -> Callable[[str], bool]:
    """Whose names and statements may not be written."""
    watch = snapshot.watch(Prompt.continuing(""), Decision(()), tenant)
    return watch.watched if watch else _nobody


def _nobody(owner: str) -> bool:
    return False


def action_name(action: Any) -> str:
    """The action's name in small letters, or "pass" where nothing is done."""
    return "pass" if action is None else type(action).__name__.removeprefix("Fitted").lower()


def _within(shown: str, likely: list[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The tokens that were shown in full, as far as that is sure."""
    found, text = [], ""
    for token, logprob in likely:
        text += token
        if not shown.startswith(text.lstrip()):
            break
        found.append((token, logprob))
    return tuple(found)


async def _merged(answers: list[AsyncGenerator[Delta]]) -> AsyncGenerator[Delta]:
    """Several answers side by side, each delta as it comes. The first that fails ends them all."""
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=len(answers))

    async def read(answer: AsyncGenerator[Delta]) -> None:
        try:
            async with aclosing(answer):
                async for delta in answer:
                    await queue.put(delta)
            await queue.put(None)
        except Exception as error:  # raised again where the answers are read
            await queue.put(error)

    tasks = [asyncio.create_task(read(answer)) for answer in answers]
    try:
        left = len(tasks)
        while left:
            found = await queue.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
