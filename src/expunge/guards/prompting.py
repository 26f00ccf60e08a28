"""What guards that work on text alone share: an instruction before a prompt, the room a prompt leaves, and every reading of a text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from expunge.errors import DataError
from expunge.guards.canonical import canonicalise
from expunge.guards.target_names import TargetNames
from expunge.types import LanguageModel, Message, Prompt


def instructed(model: LanguageModel, prompt: Prompt, text: str) -> Prompt:
    """The prompt with an instruction: in the system message, or before the first question where the model has no place for one."""
    turns = prompt.messages
    if turns and turns[0].role == "system":
        system = replace(prompt, messages=(Message("system", f"{turns[0].content}\n\n{text}"), *turns[1:]))
    else:
        system = replace(prompt, messages=(Message("system", text), *turns))
    if _shows(model, system, text):
        return system
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        return replace(prompt, messages=(*turns, Message("user", text)))
    asked = Message("user", f"{text}\n\n{turns[first].content}")
    return replace(prompt, messages=(*turns[:first], asked, *turns[first + 1 :]))


def _shows(model: LanguageModel, prompt: Prompt, text: str) -> bool:
    """Whether a system message reaches the model. Endpoints take one; a template may have none, leave it out, or raise."""
    encoder: Any = getattr(model, "encoder", None)
    if encoder is None:
        return True
    if encoder.template != "chat":
        return False
    from jinja2 import TemplateError

    try:
        return text.strip() in encoder.render(prompt)
    except TemplateError:
        return False


def room(model: LanguageModel, prompt: Prompt) -> int | None:
    """Tokens that the model's context has left after the prompt, 0 where it does not even fit; None where nobody here can tell."""
    encoder: Any = getattr(model, "encoder", None)
    if encoder is None:
        return None
    try:
        return encoder.max_tokens - len(encoder.prompts([prompt])[0].ids)
    except DataError:
        return 0


def readings(text: str) -> tuple[str, ...]:
    """The canonical form of a text and every other way to read it."""
    found = canonicalise(text)
    return (found.text, *found.views)


def phrases(texts: Iterable[str]) -> TargetNames:
    """Names or other words, to be looked for in readings of texts."""
    return TargetNames(canonicalise(text).text for text in texts if any(map(str.isalnum, text)))
