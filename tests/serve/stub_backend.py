"""A backend that writes given words, and counts what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from expunge.errors import ConfigError
from expunge.serve.backend import Ask, BackendError, BusyError, Piece
from expunge.types import Prompt

STORY = "Once upon a time there was a harbour town with seven lamps."


class StubBackend:
    name = "stub"
    context = 200
    gives_logprobs = True

    def __init__(self, text: str | Callable[[Prompt], str] = STORY, pause: float = 0.0):
        self.text, self.pause = text, pause
        self.asks: list[Ask] = []
        self.running = 0
        self.finished = 0
        self.cancelled = 0
        self.busy = False
        self.breaks_after: int | None = None
        """Pieces after which it fails."""
        self.refused: type | None = None
        """Actions that it cannot carry out."""
        self.unreachable = ""
        self.gate: Any = None
        """An awaitable's maker: called before each word."""

    def count(self, prompt: Prompt) -> int:
        return len(prompt.text.split())

    def refuse_action(self, action: Any) -> None:
        if self.refused and isinstance(action, self.refused):
            raise ConfigError("this backend only passes text on")

    async def check(self) -> str:
        return self.unreachable

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece]:
        if self.busy:
            raise BusyError
        self.asks.append(ask)
        self.running += 1
        done = False
        try:
            text = self.text(ask.prompt) if callable(self.text) else self.text
            words = [word if not i else " " + word for i, word in enumerate(text.split())]
            for i, word in enumerate(words, 1):
                if self.gate:
                    await self.gate()
                await asyncio.sleep(self.pause)
                if self.breaks_after is not None and i > self.breaks_after:
                    raise BackendError("the stub broke")
                cut = i == ask.params.max_new_tokens
                logprobs = ((word, -float(i)),) if ask.logprobs else ()
                done = cut
                yield Piece(word, i, "length" if cut else "", logprobs)
                if cut:
                    return
            done = True
            yield Piece("", len(words) + 1, "stop")
        finally:
            self.running -= 1
            self.finished += done
            self.cancelled += not done
