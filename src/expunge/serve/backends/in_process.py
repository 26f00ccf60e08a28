"""A model in this process: every answer is written in one running batch, plain ones and those with corrupted inputs side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError, UserError
from expunge.models.batched import BatchedLM, Stop
from expunge.models.continuous import Continuous, Job, QueueFullError, StoppedError, WritingError
from expunge.serve.backend import Ask, BackendError, BusyError, Piece
from expunge.serve.backends.deltas import Deltas

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM
    from expunge.types import Prompt

STOPPING = "the server is stopping"


class InProcess:
    """See `Backend`."""

    gives_logprobs = True

    def __init__(self, lm: TransformerLM, name: str, rows: int = 32, queue: int = 256):
        """`rows`: answers that are written at once. `queue`: those that may wait."""
        self.name, self.context, self.queue = name, lm.encoder.max_tokens, queue
        self.continuous = Continuous(lm, rows, queue)
        self.lm = BatchedLM(self.continuous)
        """The model that guards and policies of this backend stand before."""
        self._workers = ThreadPoolExecutor(rows, "actions")
        self._acting = 0
        self._bridge: _Bridge | None = None

    def count(self, prompt: Prompt) -> int:
        """Raises DataError for a prompt that is longer than the model's context."""
        return len(self.lm.encoder.prompts([prompt])[0].ids)

    def refuse_action(self, action: Any) -> None:
        """Raises ConfigError for what is no fitted action; every one can be carried out here."""
        if not callable(getattr(action, "generate", None)):
            raise ConfigError(
                f"{type(action).__name__} is no fitted guard action: it answers nothing. Fit a guard, and give its action."
            )

    async def check(self) -> str:
        return "The thread that writes the answers has ended." if self.continuous._closed else ""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Answers under way end with BackendError."""
        await asyncio.to_thread(self.continuous.close)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece]:
        """Raises BusyError, BackendError, and DataError for a prompt that does not fit the model's context."""
        from expunge.guards.inside import InsideAction

        inside = isinstance(ask.action, InsideAction) and type(ask.action).generate is InsideAction.generate
        if ask.action is not None and not inside:
            yield await self._acted(ask)
            return
        bridge = self._bridged()
        change = ask.action.change if inside else None
        job = await asyncio.to_thread(
            self.continuous.prepare,
            ask.prompt,
            ask.params,
            change,
            logprobs=ask.logprobs,
            listener=bridge.listener,
        )
        news = bridge.news[job] = asyncio.Event()
        try:
            self.continuous.put(job)
            told = _Told(job, self.lm.tokenizer)
            while not told.over:
                await news.wait()
                news.clear()
                if piece := told.more():
                    yield piece
        except QueueFullError:
            raise BusyError from None
        except (StoppedError, WritingError) as error:
            raise BackendError(str(error) or STOPPING) from error
        finally:
            job.cancel()
            del bridge.news[job]

    async def _acted(self, ask: Ask) -> Piece:
        """The whole answer of an action that asks the model by itself, in a thread of its own."""
        if self._acting >= self.queue:
            raise BusyError
        stop = Stop()

        def act() -> Piece:
            with self.lm.until(stop):
                ((answer,),) = ask.action.generate(self.lm, [ask.prompt], ask.params, [True])
            return Piece(answer.text, answer.tokens, "stop" if answer.finished else "length")

        self._acting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, act)
        except UserError:
            raise
        except Exception as error:
            what = str(error) if isinstance(error, WritingError) else type(error).__name__
            raise BackendError(
                STOPPING if isinstance(error, StoppedError) else f"the guard failed: {what}"
            ) from error
        finally:
            stop.set()
            self._acting -= 1

    def _bridged(self) -> _Bridge:
        loop = asyncio.get_running_loop()
        if self._bridge is None or self._bridge.loop is not loop:
            self._bridge = _Bridge(loop)
        return self._bridge


class _Bridge:
    """From the writing thread to the answers of one event loop: one wake-up a step, for however many."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.news: dict[Job, asyncio.Event] = {}
        self.listener = self._from_thread

    def _from_thread(self, jobs: Sequence[Job]) -> None:
        self.loop.call_soon_threadsafe(self._wake, jobs)

    def _wake(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job in self.news:
                self.news[job].set()


class _Told:
    """What of an answer has been given out."""

    def __init__(self, job: Job, tokenizer: Any):
        self.job, self.tokenizer = job, tokenizer
        self.deltas = Deltas(tokenizer, () if job.prompt.messages else job.encoded.ids)
        self.over = False
        self._read = 0
        self._logprobs: list[tuple[str, float]] = []

    def more(self) -> Piece | None:
        """What is new, or None where that is no text yet. Raises what went wrong."""
        job = self.job
        self.over = job.done  # before the tokens are read: what comes later is read later
        if self.over:
            job.wait()
        finish = ("stop" if job.finished else "length") if self.over else ""
        if job.generation:
            return Piece(job.generation.text, job.tokens, finish, tuple(job.spoken))
        ids = job.written[self._read :]
        text = self.deltas.feed([i for i in ids if i not in job.ends], last=self.over)
        if job.logprobs is not None:
            known = zip(ids, job.logprobs[self._read : self._read + len(ids)], strict=True)
            self._logprobs += [(self.tokenizer.decode([i]), p) for i, p in known if i not in job.ends]
        self._read += len(ids)
        if not text and not finish:
            return None
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Piece(text, self._read, finish, logprobs)
