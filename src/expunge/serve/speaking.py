"""Fixed and finished texts in the model's manner: its tokens, its chunks, its pace."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import lru_cache
from itertools import islice, pairwise

from expunge.serve.backend import Backend, Piece
from expunge.serve.pace import Pace
from expunge.types import Prompt

_WORD = re.compile(r"\s*\S+\s*$|\s*\S+")
Sleep = Callable[[float], Awaitable[object]]
KEPT = 32
"""Texts of which it is remembered what they cost: those that were said last."""


class Refusals:
    """Says fixed texts. What a text costs in the model's tokens is not looked up each time."""

    def __init__(
        self,
        backend: Backend,
        pace: Pace,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._backend, self._pace, self._sleep, self._clock = backend, pace, sleep, clock
        self.tokens = lru_cache(KEPT)(self._tokens)

    async def say(self, text: str, prompt_tokens: int, most: int, logprobs: bool) -> AsyncGenerator[Piece]:
        """The text token by token, cut after `most` of them, each with log-probability 0: nothing else is ever said."""
        parts = self.tokens(text)
        waits, due = self._pace.waits(prompt_tokens), self._clock()
        for tokens, part in enumerate([*parts, ""], 1):
            due += next(waits)
            await self._until(due)
            ended = tokens > len(parts)
            cut = tokens == most and not ended
            yield Piece(
                part,
                tokens,
                "stop" if ended else "length" if cut else "",
                ((part, 0.0),) if logprobs and not ended else (),
            )
            if cut:
                return

    async def _until(self, due: float) -> None:
        """Waits for a moment, not for a while: what a wake-up costs does not add up."""
        await self._sleep(max(0.0, due - self._clock()))

    async def told(self, answer: Piece) -> AsyncGenerator[Piece]:
        """A whole answer that came in one piece, word by word."""
        words = _WORD.findall(answer.text)
        waits, due, done = islice(self._pace.waits(0), 1, None), self._clock(), 0
        for number, word in enumerate(words, 1):
            tokens = answer.tokens * number // (len(words) + 1)
            due += sum(islice(waits, tokens - done))
            done = tokens
            await self._until(due)
            yield Piece(word, tokens)
        rest = answer.text[len("".join(words)) :]
        yield answer._replace(text=rest)

    def _tokens(self, text: str) -> Sequence[str]:
        """The text in about the pieces that the model would write: as many a word as its tokenizer makes."""
        parts, before = [], self._backend.count(Prompt.continuing(""))
        for word in _WORD.finditer(text):
            after = self._backend.count(Prompt.continuing(text[: word.end()]))
            parts += _pieces(word.group(), max(1, after - before))
            before = after
        return parts


def _pieces(word: str, count: int) -> list[str]:
    count = min(count, len(word))
    ends = [round(len(word) * i / count) for i in range(count + 1)]
    return [word[a:b] for a, b in pairwise(ends)]
