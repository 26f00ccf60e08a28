"""What a question-answer pair says: whom it is about, the words that carry it, and what else could stand in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from expunge.data.dataset import Record
from expunge.data.subjects import find_names
from expunge.data.tokenize import find_words
from expunge.types import Probe


class Fact(NamedTuple):
    """What a pair says."""

    id: str
    subject: str
    """Whose rows belong together."""
    name: str
    """What its texts call the person; empty where that is unknown."""
    question: str
    statement: str
    """A sentence that says it."""
    value: str
    """The words of the statement that carry it; all of it where they are not known."""
    wrong: tuple[str, ...]
    """What else could stand in the value's place."""
    known: Literal["given", "differs", "whole"]
    """How the value was found: given by the row, as what its wrong answers say differently, or not at all."""
    reworded: bool = False
    """The statement is the paraphrased answer: the answer itself does not have the value's words."""

    @property
    def head(self) -> str:
        """The statement up to the value."""
        return (
            self.statement[: last_place(self.value, self.statement)[0]].strip()
            if self.known != "whole"
            else ""
        )


def facts_of(probes: Sequence[Probe]) -> list[Fact]:
    """One a pair. A subject that its own questions never name is called what most of them call it."""
    people: dict[str, list[Probe]] = {}
    for probe in probes:
        people.setdefault(probe.subject, []).append(probe)
    names = {subject: _name(subject, rows) for subject, rows in people.items()}
    return [_fact(probe, names[probe.subject]) for probe in probes]


def _name(subject: str, rows: Sequence[Probe]) -> str:
    if subject and any(subject in row.question + row.answer for row in rows):
        return subject
    records = [Record(row.id, f"{row.question} {row.answer}", row.answer) for row in rows] if subject else []
    return next(iter(find_names(records, ())), "")


def _fact(probe: Probe, name: str) -> Fact:
    wrong = probe.perturbed_answer
    parts = (
        _inside(probe.value, probe.right_answer, wrong)
        if probe.value
        else differing(probe.right_answer, wrong)
    )
    value = probe.value or (parts or [""])[0]
    statement = next((text for text in (probe.answer, probe.right_answer) if find_words(value, text)), "")
    if not statement:
        same_wording = probe.answer == probe.right_answer
        return Fact(
            probe.id, probe.subject, name, probe.question, probe.answer, probe.answer, wrong if same_wording else (), "whole"
        )  # fmt: skip
    first, end = last_place(value, statement)
    others = tuple(dict.fromkeys(part for part in (parts or [])[1:] if part and part != value))
    known = "given" if probe.value else "differs"
    return Fact(
        probe.id,
        probe.subject,
        name,
        probe.question,
        statement,
        statement[first:end],
        others,
        known,
        statement != probe.answer,
    )


def differing(right: str, wrong: Sequence[str]) -> list[str] | None:
    """The words in which sentences of one wording differ: those of the right one, then of each wrong one, without a full stop or comma at
    the end. None where they share no word at either end, or one of them has nothing between.
    """
    rows = [text.split() for text in (right, *wrong)]
    if len(rows) < 2:
        return None
    shortest = min(len(row) for row in rows)
    front = next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
    back = next(
        (i for i in range(shortest - front) if len({row[-1 - i] for row in rows}) > 1), shortest - front
    )
    middles = [" ".join(row[front : len(row) - back]).strip(" .,;:!?") for row in rows]
    return middles if front + back and all(middles) else None


def _inside(value: str, right: str, wrong: Sequence[str]) -> list[str] | None:
    """The value, and what stands in its place in each wrong sentence that has the same words around it."""
    if not find_words(value, right):
        return None
    first, end = last_place(value, right)
    head, tail = right[:first], right[end:]
    return [
        value,
        *(
            text[first : len(text) - len(tail)]
            for text in wrong
            if text.startswith(head) and text.endswith(tail)
        ),
    ]


def last_place(phrase: str, text: str) -> tuple[int, int]:
    """Where a phrase stands last in a text, in characters; it has to stand there."""
    return find_words(phrase, text)[-1]
