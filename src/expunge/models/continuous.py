"""Many answers at once in a thread of their own: prompts join the batch that is running, and leave it when they are answered.

    between two tokens:  cancelled rows leave, what waits is read and joins, and every row gets its next token

Plain rows and rows with corrupted inputs share the batch. Rows of any other intervention, and all rows of a model that cannot let
rows join (recurrent states, sliding windows), are written by `TransformerLM.generate`, together where they are alike; the others
stand still meanwhile. The model's lock is held for one forward at a time, so that scores and detectors get in between.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from expunge.data.tokenize import Encoded
from expunge.errors import UserError
from expunge.models.corrupted import CorruptedInputs
from expunge.models.pushed import PushedTokens
from expunge.models.running import Row, Running, choose, runs_as_generate
from expunge.types import Example, Generation, GenerationParams, Prompt, Score, Seed

if TYPE_CHECKING:
    from expunge.models.intervention import Intervention
    from expunge.models.language_model import TransformerLM

PATIENCE = 16
"""Tokens that the running rows get between two batches that are written by themselves."""


class QueueFullError(Exception):
    """As many answers wait as may."""


class StoppedError(Exception):
    """The answer was cancelled, or no more are written."""


class WritingError(Exception):
    """The model failed while an answer was written. The message holds nothing of the prompt."""


Listener = Callable[[Sequence["Job"]], None]
"""Called in the writing thread, once a step, with those of its answers that have something new."""


@dataclass(eq=False, kw_only=True)
class Job(Row):
    """One answer: `written` and `logprobs` grow from the end while it is written, and may be read by any thread."""

    prompt: Prompt
    change: Intervention | None = None
    alone: bool = False
    """Whether it is written by `generate`, and comes as a whole."""
    listener: Listener | None = None
    generation: Generation | None = None
    """The answer, where it was written by `generate`."""
    spoken: Sequence[tuple[str, float]] = ()
    """The tokens of that answer as they are read again, and their log-probabilities, where they are asked for."""
    failure: Exception | None = None
    cancelled: bool = False
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        return self._over.is_set()

    def cancel(self) -> None:
        """Its row is free at the next step."""
        self.cancelled = True

    @property
    def tokens(self) -> int:
        """Written so far, the end token included."""
        return self.generation.tokens if self.generation else len(self.written)

    @property
    def finished(self) -> bool:
        """Whether the model ended the answer itself."""
        return self.generation.finished if self.generation else self.written[-1] in self.ends

    def wait(self) -> None:
        """Until it is done. Raises what went wrong."""
        self._over.wait()
        if self.failure:
            raise self.failure

    def finish(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self._over.set()


class Continuous:
    """See the module. Its thread starts with the first job."""

    def __init__(self, lm: TransformerLM, rows: int = 32, queue: int = 256, prompt_tokens: int = 2048):
        """`rows`: answers that are written at once. `queue`: those that may wait. `prompt_tokens`: of several prompts that are read
        between two tokens, padding included; a longer one is read by itself.
        """
        from expunge.models.language_model import TransformerLM as Plain

        self.lm, self.rows, self.queue, self.prompt_tokens = lm, rows, queue, prompt_tokens
        lm.encoder.prompts([Prompt.continuing("a")])  # what is settled at first use is so before threads meet
        lm.score([])
        with lm._lock:
            self.continuous = type(lm).generate is Plain.generate and runs_as_generate(lm)
        """Whether rows can join a batch that runs."""
        self._running: Running[Job] = Running(lm.model, lm.pad_id)
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._begun: Sequence[Job] = ()
        """Taken from those that wait, and not among the rows yet."""
        self._closed = False
        self._thread: threading.Thread | None = None
        self._steps = 0
        """Since a batch was written by itself."""

    # --- what other threads call --------------------------------------------------------------------------------------
    def prepare(
        self,
        prompt: Prompt,
        params: GenerationParams,
        change: Intervention | None = None,
        *,
        copy: int = 0,
        logprobs: bool = False,
        listener: Listener | None = None,
    ) -> Job:
        """An answer that is to be written. `copy`: which of several answers to the prompt. Raises DataError for a prompt that does not
        fit the model's context.
        """
        corruption = change.corruption if isinstance(change, CorruptedInputs) else None
        alone = not self.continuous or bool(prompt.images) or not (change is None or corruption)
        encoded = Encoded([], 0, "", [], 0) if prompt.images else self.lm.encoder.prompts([prompt])[0]
        limit = min(params.max_new_tokens, max(1, self.lm.encoder.max_tokens - len(encoded.ids)))
        sample = params.sample and params.temperature > 0
        seed = Seed(params.seed).child("draw", prompt.text, copy).number
        return Job(
            prompt=prompt,
            encoded=encoded,
            limit=limit,
            ends=self.lm._end_ids,
            params=replace(params, max_new_tokens=limit, sample=sample),
            corruption=None if alone else corruption,
            draws=np.random.default_rng(seed) if sample else None,
            push=self._pushing(params.bias) if params.bias else None,
            logprobs=[] if logprobs else None,
            change=change,
            alone=alone,
            listener=listener,
        )

    def _pushing(self, bias: Sequence[tuple[str, float]]) -> Callable[[Tensor], Tensor]:
        pushed = PushedTokens(self.lm.tokenizer, bias, self.lm._end_ids)
        return lambda logits: pushed(logits[None], logits[None])[0]

    def put(self, job: Job, *, wait: bool = False) -> None:
        """Let it be written. Raises QueueFullError, unless it is to `wait` for its place; StoppedError after `close`."""
        with self._changed:
            while not self._closed and len(self._waiting) >= self.queue:
                self._drop_cancelled()
                if len(self._waiting) < self.queue:
                    break
                if not wait:
                    raise QueueFullError
                self._changed.wait()
            if self._closed:
                raise StoppedError
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def submit(self, prompt: Prompt, params: GenerationParams, change: Any = None, **more: Any) -> Job:
        """`prepare` and `put`."""
        job = self.prepare(prompt, params, change, **more)
        self.put(job)
        return job

    def close(self) -> None:
        """End the thread; what is not answered raises StoppedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    @property
    def load(self) -> tuple[int, int]:
        """Rows under way, and answers that wait."""
        return len(self._running.rows) + len(self._begun), len(self._waiting)

    # --- the thread -----------------------------------------------------------------------------------------------------
    def _work(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            with self._changed:
                self._closed = True
                left = [*self._running.clear(), *self._begun, *self._waiting]
                self._waiting.clear()
                self._changed.notify_all()
            self._end(left, StoppedError())

    def _turn(self) -> bool:
        """One token for every row, after those that may join have joined. False when there is to be no other turn."""
        running = self._running
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or running.rows)
            if self._closed:
                return False
            self._drop_cancelled()
            alike = self._alike()
            joining = [] if alike else self._joining()
            self._begun = alike or joining
            self._changed.notify_all()
        if alike:
            self._write_alone(alike)
        if joining:
            self._join(joining)
        self._begun = ()
        if running.rows:
            self._step()
        return True

    def _drop_cancelled(self) -> None:
        gone = [job for job in self._waiting if job.cancelled]
        for job in gone:
            self._waiting.remove(job)
            job.finish(StoppedError())

    def _joining(self) -> list[Job]:
        """Those that wait and may join now, in the order of their arrival."""
        found: list[Job] = []
        longest = 0
        for job in [job for job in self._waiting if not job.alone][: self.rows - len(self._running.rows)]:
            longest = max(longest, len(job.encoded.ids))
            if found and longest * (len(found) + 1) > self.prompt_tokens:
                break
            found.append(job)
        self._take(found)
        return found

    def _alike(self) -> list[Job]:
        """Those that wait to be written by themselves and are like the first of them; none while it is the others' turn."""
        alone = [job for job in self._waiting if job.alone]
        others = self._running.rows or len(alone) < len(self._waiting)
        if not alone or (others and self._steps < PATIENCE):
            return []
        first = alone[0]
        found = [job for job in alone if job is first or _go_together(job, first)][: self.rows]
        self._take(found)
        return found

    def _take(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._waiting.remove(job)

    def _join(self, jobs: list[Job]) -> None:
        try:
            with self.lm._lock:
                logits, cache = self._running.read(jobs)
            choose(logits, jobs)
        except Exception as error:
            self._end(jobs, _failed(error))
            return
        try:
            self._running.join(jobs, cache)
        except Exception as error:  # perhaps half done
            self._end(list({*self._running.clear(), *jobs}), _failed(error))
        else:
            self._tell(jobs)

    def _step(self) -> None:
        running = self._running
        self._steps += 1
        jobs = list(running.rows)
        gone = [job for job in jobs if job.cancelled]
        try:
            running.leave(gone)
            if running.rows:
                with self.lm._lock:
                    logits = running.step()
                choose(logits, running.rows)
                going = list(running.rows)
                running.leave()
                self._tell(going)
        except Exception as error:
            running.clear()
            self._end([job for job in jobs if job not in gone], _failed(error))
        self._end(gone, StoppedError())

    def _write_alone(self, jobs: list[Job]) -> None:
        self._steps = 0
        first = jobs[0]
        params = first.params
        try:
            prompts, flags = [job.prompt for job in jobs], [True] * len(jobs)
            answers = self.lm.generate(prompts, params, first.change, flags if first.change else None)
            for job, (answer,) in zip(jobs, answers, strict=True):
                job.generation = answer
            if first.logprobs is not None and not first.prompt.images:
                examples = [
                    Example(job.prompt, answer.text) for job, (answer,) in zip(jobs, answers, strict=True)
                ]
                scores = self.lm.score(examples, first.change, flags if first.change else None)
                for job, example, score in zip(jobs, examples, scores, strict=True):
                    job.spoken = self._spoken(example, score)
        except Exception as error:
            self._end(jobs, _failed(error))
        else:
            self._end(jobs)

    def _spoken(self, example: Example, score: Score) -> list[tuple[str, float]]:
        encoded = self.lm.encoder.examples([example])[0]
        ids = encoded.ids[encoded.start : -1]
        return [
            (str(self.lm.tokenizer.decode([i])), float(p))
            for i, p in zip(ids, score.token_logprobs, strict=False)
        ]

    def _tell(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.ended and not job.done:
                job.finish()
        for listener in {job.listener for job in jobs if job.listener}:
            mine = [job for job in jobs if job.listener == listener]
            try:
                listener(mine)
            except Exception:  # nobody is there to read them
                for job in mine:
                    job.cancel()

    def _end(self, jobs: Sequence[Job], failure: Exception | None = None) -> None:
        for job in jobs:
            job.finish(failure)
        self._tell(jobs)


def _go_together(a: Job, b: Job) -> bool:
    """Whether two answers can be written as one batch, without a draw of the one depending on the other."""
    if a.params.sample or a.prompt.images or b.prompt.images or a.change is not b.change:
        return False
    same = replace(a.params, seed=0) == replace(b.params, seed=0)
    return same and (a.logprobs is None) == (b.logprobs is None)


def _failed(error: Exception) -> Exception:
    """What whoever waits is told: a person's mistake in full, of anything else its kind."""
    if isinstance(error, UserError):
        return error
    failure = WritingError(f"the model failed while it wrote an answer ({type(error).__name__})")
    failure.__cause__ = error
    return failure
