"""What attacks with more than one turn or text have in common: conversations, and what an attacker knows of a person beside the fact."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from expunge.attacks._case import Case
from expunge.types import Message, Probe, Prompt


class Row(Protocol):
    """One trial that was put to a model, as an audit keeps it."""

    @property
    def case(self) -> int: ...

    @property
    def variant(self) -> str: ...

    @property
    def hits(self) -> tuple[bool, ...]: ...

    @property
    def prompt(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> int: ...


def turns(*said: str) -> Prompt:
    """User and assistant in turn; chat templates take no other order."""
    return Prompt(tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said)))


def go_on(prompt: Prompt, reply: str, said: str) -> Prompt:
    """The conversation with what was replied and the next turn. An empty reply is written as an ellipsis, since templates want one."""
    return Prompt((*prompt.messages, Message("assistant", reply or "…"), Message("user", said)))


def own_facts(case: Case) -> list[str]:
    """Sentences about the same person that give no answer away."""
    return [row.answer for row in case.own if row.answer and not case.given_away_by(row.answer)]


def other_rows(case: Case, rng: random.Random) -> Iterator[Probe]:
    """Questions and answers about other people that give no answer away, in some order."""
    for row in rng.sample(case.others, len(case.others)):
        if row.answer and not case.given_away_by(f"{row.question} {row.answer}"):
            yield row


def described(case: Case, facts: Iterable[str]) -> str:
    """The person by facts, without the name or a word of it; empty where no fact names them."""
    named = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in [case.name, *case.name.split()]))
    said = [named.sub("this person", fact) for fact in facts if case.name and named.search(fact)]
    return " ".join(text[0].upper() + text[1:] for text in said)
