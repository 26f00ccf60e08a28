"""From a prompt to its answer: limits, the decision, and what follows from it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from expunge.errors import UserError
from expunge.guards.actions.refuse import FittedRefuse, Refuse
from expunge.guards.snapshot import Decision, Snapshot
from expunge.ledger import LedgerError
from expunge.serve.answering import Answer, Looked, action_name, watch_of
from expunge.serve.auth import Access
from expunge.serve.backend import Backend
from expunge.serve.limits import Limits, Reservation
from expunge.serve.pace import Pace
from expunge.serve.settings import ServeSettings
from expunge.serve.speaking import Refusals
from expunge.serve.telemetry import Telemetry
from expunge.serve.wire import ChatRequest, CompletionRequest
from expunge.serve.wire_errors import ApiError, busy, guard_unavailable, trace
from expunge.types import Prompt

if TYPE_CHECKING:
    from expunge.ledger import Ledger
    from expunge.serve.enforcing import Enforcer

log = logging.getLogger("expunge.serve")
DECIDERS = 4
"""Threads for decisions: detectors are numpy and torch, which let go of the interpreter."""


class Gateway:
    """One backend behind one policy. `sleep` paces refusals, `clock` measures seconds; both may be a test's own."""

    def __init__(
        self,
        backend: Backend,
        enforcer: Enforcer,
        settings: ServeSettings | None = None,
        telemetry: Telemetry | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Any] = asyncio.sleep,
        pace: Pace | None = None,
    ):
        self.backend, self.enforcer = backend, enforcer
        self.settings = settings or ServeSettings()
        self.telemetry = telemetry or Telemetry(self.settings.decisions_kept)
        self.limits = Limits(self.settings)
        self.pace, self.clock = pace or Pace(), clock
        self.refusals = Refusals(backend, self.pace, sleep, clock)
        self.threads = ThreadPoolExecutor(DECIDERS, "decide")
        self.running = 0
        self.unreachable = ""
        """Why the backend answers nothing, as it was when it was last looked after; empty: it may answer."""
        self._fresh: tuple[asyncio.AbstractEventLoop, Snapshot] | None = None
        """A snapshot that was looked for in this round of the event loop."""
        self.telemetry.running.set_function(lambda: self.running)
        self.telemetry.active.set_function(lambda: len(enforcer.requests))
        self.telemetry.epoch.set_function(lambda: enforcer.epoch)
        self.telemetry.lag.set_function(lambda: enforcer.lag)
        self.telemetry.ledger_seq.set_function(lambda: _rows(enforcer.ledger))
        enforcer.on_fallback, enforcer.on_guard = self.telemetry.fallbacks.inc, self.telemetry.follow

    async def start(self) -> None:
        """Raises what the ledger raises, and UserError for a policy that cannot be made."""
        await asyncio.get_running_loop().run_in_executor(self.threads, self.enforcer.start)
        await self.backend.start()
        self.unreachable = await self.backend.check()

    async def look_after_backend(self) -> None:
        found = await self.backend.check()
        if found and not self.unreachable:
            log.error("the model does not answer: %s", found)
        elif self.unreachable and not found:
            log.info("the model answers again")
        self.unreachable = found

    async def stop(self) -> None:
        await self.backend.stop()
        self.threads.shutdown(wait=False, cancel_futures=True)

    # --- deciding -----------------------------------------------------------------------------------------------------
    async def look(self, prompt: Prompt, tenant: str, answers: int = 0) -> Looked:
        """Decide on a prompt and watch over its answers, under the policy as it stands now. Raises ApiError: 503 where the guard is broken or late, 400 for a
        prompt that the model cannot read.
        """

        def work() -> Looked:
            snapshot = self.enforcer.current()
            (decision,) = snapshot.decide([prompt], tenant)
            watches = tuple(watch_of(snapshot, prompt, decision, tenant) for _ in range(answers))
            tokens = self._count(prompt)
            return Looked(snapshot, decision, snapshot.epoch, tokens, self.clock() - start, watches)

        start = self.clock()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.decide_seconds):
                return await loop.run_in_executor(self.threads, work)
        except ApiError:
            raise
        except Exception as error:
            self.telemetry.guard_failures.inc()
            log.error("no decision, so no answer: %s", trace(error))
            raise guard_unavailable() from None

    def _count(self, prompt: Prompt) -> int:
        try:
            return self.backend.count(prompt)
        except UserError:
            raise ApiError(
                400,
                f"This model cannot read the prompt: it has more than the {self.backend.context} tokens of its context.",
                "context_length_exceeded",
                "messages" if prompt.messages else "prompt",
            ) from None

    async def snapshot(self) -> Snapshot:
        """The policy as it stands now. Raises ApiError where the ledger cannot be read."""
        loop = asyncio.get_running_loop()
        if self._fresh and self._fresh[0] is loop:
            return self._fresh[1]
        try:
            now = self.enforcer.fresh()
            if now is None:
                now = await loop.run_in_executor(self.threads, self.enforcer.current)
            else:  # one look for all the answers that the model's step has brought forward
                self._fresh = loop, now
                loop.call_soon(self._look_again)
            return now
        except Exception as error:
            self.telemetry.guard_failures.inc()
            log.error("the ledger cannot be read, so nothing more is answered: %s", trace(error))
            raise guard_unavailable() from None

    def _look_again(self) -> None:
        self._fresh = None

    # --- answering ----------------------------------------------------------------------------------------------------
    async def open(
        self, body: ChatRequest | CompletionRequest, access: Access, *, plain: bool = False
    ) -> Answer:
        """Admit a request: limits, context, decision. The answer has to be closed. Raises ApiError.

        `plain`: without the guard, for whoever may.
        """
        if body.model != self.backend.name:
            raise ApiError(404, "There is no such model here; see /v1/models.", "model_not_found", "model")
        if body.wants_logprobs:
            self._refuse_logprobs(body, access)
        if self.running + body.n > self.settings.max_concurrent:
            self.telemetry.limited.labels("concurrent").inc()
            raise busy("As many answers are under way as this server writes at once.")
        self.running += body.n
        reservation = None
        try:
            looked = await self.look(body.prompt_read, access.tenant, body.n)
            most = self._most(body, looked.tokens)
            reservation = self._reserve(access, looked.tokens + most * body.n)
            action = None if plain else self._action(looked.decision)
            requests = self.enforcer.shown(looked.decision.requests)
            if not access.id.startswith("own-"):
                name = "plain" if plain else action_name(action)
                self.telemetry.decided(access.tenant, requests, "input", name, looked.seconds, looked.epoch)
            return Answer(self, body, access, looked, action, requests, most, reservation, plain)
        except BaseException:
            self.running -= body.n
            if reservation:
                reservation.settle(0)
            raise

    def told(self, requests: Iterable[str], access: Access) -> list[str]:
        """Ids out of a decision, those that the key may know of: a tenant's knows its own alone."""
        if not access.tenant:
            return list(requests)
        mine = {entry.id for entry in self.enforcer.in_force() if entry.tenant == access.tenant}
        return [id for id in requests if id in mine]

    def _refuse_logprobs(self, body: ChatRequest | CompletionRequest, access: Access) -> None:
        why = ""
        if not access.may("logprobs"):
            why = "the key has no scope 'logprobs'"
        elif body.stream:
            why = "log-probabilities are not streamed"
        elif not getattr(self.backend, "gives_logprobs", False):
            why = "this model gives none"
        if why:
            raise ApiError(400, f"'logprobs' is not served: {why}.", "unsupported_parameter", "logprobs")

    def _most(self, body: ChatRequest | CompletionRequest, tokens: int) -> int:
        """Tokens that may be written. Raises ApiError where the prompt leaves no room for them."""
        room = self.backend.context - tokens
        most = body.most_tokens
        if most is None:
            most = min(self.settings.answer_tokens, max(1, room))
        if most > room:
            raise ApiError(
                400,
                f"This model's context holds {self.backend.context} tokens; the prompt has {tokens} and the answer may have {most}.",
                "context_length_exceeded",
                "messages" if isinstance(body, ChatRequest) else "prompt",
            )
        return most

    def _reserve(self, access: Access, tokens: int) -> Reservation | None:
        if access.id.startswith("own-"):
            return None
        try:
            return self.limits.reserve(access, tokens)
        except ApiError as error:
            self.telemetry.limited.labels(error.code or "").inc()
            raise

    def _action(self, decision: Decision) -> Any:
        """Every refusal that the policy made up itself says what this server says. So does what answers for several requests
        together where the backend can only carry out each alone.
        """
        action = decision.action
        own = isinstance(action, FittedRefuse) and action.text == Refuse().text
        if own or (len(decision.requests) > 1 and self._cannot(action)):
            return FittedRefuse(self.settings.refusal)
        return action

    def _cannot(self, action: Any) -> bool:
        try:
            self.backend.refuse_action(action)
        except UserError:
            return True
        return False


def _rows(ledger: Ledger) -> float:
    """Of its history; not a number where the ledger cannot be read."""
    try:
        return ledger.rows
    except LedgerError:
        return math.nan
