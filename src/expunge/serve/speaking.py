"""A refusal in the model's manner: its tokens, its chunks, its pace."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import pairwise

from expunge.serve.backend import Backend, Piece
from expunge.serve.pace import Pace
from expunge.types import Prompt

_WORD = re.compile(r"\s*\S+\s*$|\s*\S+")
Sleep = Callable[[float], Awaitable[object]]


class Refusals:
    """Says fixed texts. What a text costs in the model's tokens is looked up once."""

    def __init__(self, backend: Backend, pace: Pace, sleep: Sleep = asyncio.sleep):
        self._backend, self._pace, self._sleep = backend, pace, sleep
        self._cut: dict[str, list[str]] = {}

    async def say(self, text: str, prompt_tokens: int, most: int, logprobs: bool) -> AsyncGenerator[Piece]:
        """The text token by token, cut after `most` of them, each with log-probability 0: nothing else is ever said."""
        tokens, wait = 0, self._pace.first(prompt_tokens)
        for part in self.tokens(text):
            await self._sleep(wait)
            tokens, wait = tokens + 1, self._pace.gap()
            cut = tokens == most
            yield Piece(part, tokens, "length" if cut else "", ((part, 0.0),) if logprobs else ())
            if cut:
                return
        await self._sleep(wait)
        yield Piece("", tokens + 1, "stop")

    def tokens(self, text: str) -> list[str]:
        """The text in about the pieces that the model would write: as many a word as its tokenizer makes."""
        if text not in self._cut:
            parts, before = [], self._backend.count(Prompt.continuing(""))
            for word in _WORD.finditer(text):
                after = self._backend.count(Prompt.continuing(text[: word.end()]))
                parts += _pieces(word.group(), max(1, after - before))
                before = after
            self._cut[text] = parts
        return self._cut[text]


def _pieces(word: str, count: int) -> list[str]:
    count = min(count, len(word))
    ends = [round(len(word) * i / count) for i in range(count + 1)]
    return [word[a:b] for a, b in pairwise(ends)]
