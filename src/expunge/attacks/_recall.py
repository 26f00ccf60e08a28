"""What a model at hand answers when it is simply asked: how attacks that change weights or inputs read what came back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expunge.attacks._attack import WRITE, Found, answers_of
from expunge.attacks._case import Case
from expunge.attacks._reading import says_any
from expunge.types import Prompt

if TYPE_CHECKING:
    from expunge.types import LanguageModel


def whose(case: Case) -> str:
    """Whom a row is about: its subject, else the name in its question; a row about nobody stands for itself."""
    return case.probe.subject or case.name or case.question


def found_in(case: int, text: str, cases: Sequence[Case], variant: str = "", prompt: str = "") -> Found:
    """A text read for one case's answers."""
    hits = tuple(says_any(text, forms) for forms in answers_of(cases[case]))
    return Found(case, hits, variant, text, prompt or cases[case].question)


def recalled(
    lm: LanguageModel, cases: Sequence[Case], variant: str = "", *, opened: bool = False
) -> list[Found]:
    """Each case's question asked greedily; with `opened`, with the statement up to the fact in the model's mouth. Cases whose answer
    nobody could recognise are left out.
    """
    numbers = [i for i, case in enumerate(cases) if case.value and (case.head or not opened)]
    prompts = [Prompt.ask(cases[i].question, cases[i].head if opened else "") for i in numbers]
    answers = lm.generate(prompts, WRITE)
    return [
        found_in(i, written[0].text, cases, variant, prompt.text)
        for i, prompt, written in zip(numbers, prompts, answers, strict=True)
    ]


def rate(found: Sequence[Found]) -> float | None:
    """The share of cases that are hit; None without any."""
    cases = {row.case for row in found}
    return len({row.case for row in found if row.hits[0]}) / len(cases) if cases else None
