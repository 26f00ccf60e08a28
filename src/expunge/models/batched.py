"""The model behind a running batch as a LanguageModel of its own, for guards that ask it themselves."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from expunge.models.continuous import Continuous, Job, StoppedError
from expunge.types import Example, Generation, GenerationParams, Prompt, Score

if TYPE_CHECKING:
    from expunge.models.intervention import Intervention


class Stop:
    """Ends what a guard's action has under way, and lets it begin nothing more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: Sequence[Job] = ()
        self._set = False

    def set(self) -> None:
        with self._lock:
            self._set = True
            for job in self._jobs:
                job.cancel()

    def holds(self, jobs: Sequence[Job]) -> None:
        """Raises StoppedError where it is set already."""
        with self._lock:
            if self._set:
                raise StoppedError
            self._jobs = jobs


class BatchedLM:
    """A TransformerLM whose answers are written in the running batch, for guards that ask the model themselves. Everything else of it
    is the model's own.
    """

    def __init__(self, continuous: Continuous):
        self.continuous, self.lm = continuous, continuous.lm
        self._here = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)

    def score(
        self,
        examples: Sequence[Example],
        change: Intervention | None = None,
        flagged: Sequence[bool] | None = None,
    ) -> list[Score]:
        return self.lm.score(examples, change, flagged)

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        change: Intervention | None = None,
        flagged: Sequence[bool] | None = None,
    ) -> list[list[Generation]]:
        """As `TransformerLM.generate`; sampled answers are drawn row by row. Waits for a place in the queue. Raises WritingError,
        StoppedError.
        """
        if params.beams > 1 or (params.copies > 1 and not params.sample):
            return self.lm.generate(prompts, params, change, flagged)
        jobs = [
            self.continuous.prepare(prompt, params, change if flagged and flagged[i] else None, copy=copy)
            for i, prompt in enumerate(prompts)
            for copy in range(params.copies)
        ]
        stop = getattr(self._here, "stop", None)
        if stop:
            stop.holds(jobs)
        try:
            for job in jobs:
                self.continuous.put(job, wait=True)
            for job in jobs:
                job.wait()
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
        answers = [job.generation or self.lm._read(job.written) for job in jobs]
        return [answers[i : i + params.copies] for i in range(0, len(answers), params.copies)]

    @contextmanager
    def until(self, stop: Stop) -> Generator[None]:
        """While open, what this thread generates ends when `stop` is set."""
        self._here.stop = stop
        try:
            yield
        finally:
            self._here.stop = None
