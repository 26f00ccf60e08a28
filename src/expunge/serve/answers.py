"""Answers in the shapes of OpenAI's API, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from typing import Any, NamedTuple


class Delta(NamedTuple):
    """What may be shown of one answer since the last delta."""

    index: int
    text: str
    finish: str = ""
    """In the last one: "stop", "length", or "content_filter"."""
    tokens: int = 0
    """Tokens written so far."""
    logprobs: tuple[tuple[str, float], ...] = ()
    """In the last one, of tokens whose text was shown."""


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int

    def describe(self) -> dict[str, int]:
        return {**self._asdict(), "total_tokens": sum(self)}


class Shape:
    """One answer's outer form: a chat message, or a text that goes on."""

    def __init__(self, model: str, chat: bool, usage_asked: bool = False):
        self.chat, self.usage_asked = chat, usage_asked
        self.id = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        self._head = {"id": self.id, "created": int(time.time()), "model": model}

    # --- in chunks ----------------------------------------------------------------------------------------------------
    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk that names the role; a text has none."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}) if self.chat else None

    def delta(self, delta: Delta) -> list[dict[str, Any]]:
        """The new text, and the reason why the answer ended where it has. The reason comes in a chunk of its own, as OpenAI's does."""
        chunks = []
        if delta.text:
            text = {"delta": {"content": delta.text}} if self.chat else {"text": delta.text}
            chunks.append(self._chunk(delta.index, text))
        if delta.finish:
            nothing: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
            chunks.append(self._chunk(delta.index, nothing, delta.finish))
        return chunks

    def usage(self, usage: Usage) -> dict[str, Any]:
        return {**self._start(), "choices": [], "usage": usage.describe()}

    def _start(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk" if self.chat else "text_completion"}

    def _chunk(self, index: int, content: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        return {**self._start(), "choices": [choice], **({"usage": None} if self.usage_asked else {})}

    # --- whole --------------------------------------------------------------------------------------------------------
    def whole(self, texts: list[str], ends: list[Delta], logprobs: bool, usage: Usage) -> dict[str, Any]:
        choices = []
        for index, (text, end) in enumerate(zip(texts, ends, strict=True)):
            if self.chat:
                said: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
                shown = {"content": [_token(*pair) for pair in end.logprobs], "refusal": None}
            else:
                said, shown = {"text": text}, _columns(end.logprobs)
            choices.append(
                {
                    "index": index,
                    **said,
                    "logprobs": shown if logprobs else None,
                    "finish_reason": end.finish,
                }
            )
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": usage.describe()}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}


def _columns(pairs: tuple[tuple[str, float], ...]) -> dict[str, Any]:
    texts = [text for text, _ in pairs]
    starts = [len("".join(texts[:i])) for i in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [value for _, value in pairs],
        "top_logprobs": None,
        "text_offset": starts,
    }
