"""The same fact asked in several forms, made from a question-answer pair or from RWKU's rows. What a form cannot be made of is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from expunge.data.dataset import Record
from expunge.data.subjects import find_names
from expunge.data.tokenize import find_words
from expunge.types import Probe

FORMS = ("qa", "cloze", "multiple_choice", "reverse", "generation", "qa_spelled", "cloze_spelled")
BLANK = "___"
OPTIONS = 4
Choices = Literal["letter", "text"]
"""How a multiple choice is answered: by the letter of the right option, or by its text."""
SPELLED = 40
"""The longest value, in characters, that is spelled."""


class Asked(NamedTuple):
    """One fact in one form."""

    form: str
    subject: str
    query: str
    """What is asked, without any instruction."""
    head: str
    """Words that the answer is opened with; they do not count."""
    answer: str
    """The words that count."""
    fact: str = ""
    """The same for all forms of one fact."""
    letter: bool = False
    """The answer is an option's letter."""


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
        return self.statement[: _last(self.value, self.statement)[0]].strip() if self.known != "whole" else ""


# --- facts of pairs -----------------------------------------------------------------------------------------------------
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
    first, end = _last(value, statement)
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
    first, end = _last(value, right)
    head, tail = right[:first], right[end:]
    return [
        value,
        *(
            text[first : len(text) - len(tail)]
            for text in wrong
            if text.startswith(head) and text.endswith(tail)
        ),
    ]


# --- forms of facts -----------------------------------------------------------------------------------------------------
def forms_of(fact: Fact, choices: Choices = "letter") -> list[Asked]:
    """The fact in every form that it can be asked in.

    cloze: a blank in place of the value. multiple_choice: up to three wrong options, in an order that the texts fix. reverse: who it is true
    of; not where a part of the name is left or the value is of the name. generation: to tell about the person, opened with the words before
    the value. Spelled: a value of at most SPELLED characters, one a line, without its blanks. None of cloze, generation and spelling without a known value.
    """
    asked = [_asked(fact, "qa", fact.question, fact.head, fact.value)]
    if options := _options(fact):
        letter = "ABCD"[options.index(fact.value)]
        listed = "".join(f"\n{mark}. {option}" for mark, option in zip("ABCD", options, strict=False))
        by_text = choices == "text"
        asked.append(
            _asked(
                fact,
                "multiple_choice",
                fact.question + listed,
                fact.head if by_text else "",
                fact.value if by_text else letter,
            )._replace(letter=not by_text)
        )
    if said := _without(fact.name, fact.statement, "" if fact.known == "whole" else fact.value):
        asked.append(_asked(fact, "reverse", reversed_question(said), "", fact.name))
    if fact.known != "whole":
        blanked = _blanked(fact.value, fact.statement)
        asked.append(_asked(fact, "cloze", blanked, "", fact.value))
        if fact.name and fact.head and not find_words(fact.value, fact.name):
            asked.append(_asked(fact, "generation", telling(fact.name), fact.head, fact.value))
        if len(fact.value) <= SPELLED:
            asked.append(_asked(fact, "qa_spelled", fact.question, "", spelled(fact.value)))
            asked.append(_asked(fact, "cloze_spelled", blanked, "", spelled(fact.value)))
    return asked


def _asked(fact: Fact, form: str, query: str, head: str, answer: str) -> Asked:
    return Asked(form, fact.subject, query, head, answer, fact.id)


def _options(fact: Fact) -> list[str]:
    """The value among wrong ones; [] without a wrong one. A whole answer stands among whole answers."""
    wrong = [text for text in fact.wrong if text != fact.value][: OPTIONS - 1]
    return sorted([fact.value, *wrong]) if wrong else []


def spelled(value: str) -> str:
    """One character a line."""
    return "".join(f"{character}\n" for character in value if not character.isspace())


def reversed_question(said: str) -> str:
    return f"Of whom is it true: {said.rstrip(' .!')}?"


def telling(name: str) -> str:
    return f"Tell me about {name}."


def _without(name: str, statement: str, value: str) -> str:
    """A statement with a blank for the name; "" where it does not name the person, something of the name is left, or the value is of the name."""
    if not name or not find_words(name, statement) or _shares(value, name):
        return ""
    said = _blanked(name, statement)
    return "" if _shares(name, said) else said


def _shares(a: str, b: str) -> bool:
    """Whether two texts have a word of three letters or more in common."""
    words = (set(re.findall(r"\w{3,}", text.casefold())) for text in (a, b))
    return bool(next(words) & next(words))


def _blanked(phrase: str, text: str) -> str:
    for first, end in reversed(find_words(phrase, text)):
        text = text[:first] + BLANK + text[end:]
    return text


def _last(phrase: str, text: str) -> tuple[int, int]:
    return find_words(phrase, text)[-1]


# --- forms of RWKU's rows -------------------------------------------------------------------------------------------------
def forms_of_rows(rows: Sequence[dict[str, Any]]) -> list[Asked]:
    """RWKU's or ORT's rows of one set as forms: level 1 cloze, level 2 qa, level 4 multiple choice by letter, level 3's reverse queries, and
    without level 4 its multiple choices, answered by text. Made of them: the spelled forms; of a cloze with one blank that names the person,
    the reverse and, where words stand before the blank, generation.
    """
    lettered = any(row["level"] == "4" for row in rows)
    asked: list[Asked] = []
    for row in rows:
        fact = f"{row['subject']}: {row['answer'].casefold()}"
        form = _form(row, lettered)
        if not form:
            continue
        asked.append(Asked(form, row["subject"], row["query"], "", row["answer"], fact, row["level"] == "4"))
        if form in ("qa", "cloze"):
            asked.append(asked[-1]._replace(form=f"{form}_spelled", answer=spelled(row["answer"])))
        if form == "cloze":
            asked += _made(row, fact)
    return asked


def _form(row: dict[str, Any], lettered: bool) -> str:
    given = {"1": "cloze", "2": "qa", "4": "multiple_choice"}
    kinds = {"reverse query": "reverse"} | ({} if lettered else {"multiple choice": "multiple_choice"})
    return given.get(row["level"]) or kinds.get(row["type"], "")


def _made(row: dict[str, Any], fact: str) -> Iterable[Asked]:
    """What a sentence with one blank can also be asked as."""
    query, name, value = row["query"], row["subject"], row["answer"]
    if len(re.findall(r"_{2,}", query)) != 1 or not find_words(name, query):
        return
    head, tail = re.split(r"_{2,}", query)
    if said := _without(name, head + value + tail, value):
        yield Asked("reverse", name, reversed_question(said), "", name, fact)
    if head.strip() and not find_words(value, name):
        yield Asked("generation", name, telling(name), head.strip(), value, fact)


def counted(facts: Sequence[Fact], asked: Sequence[Asked]) -> dict[str, int]:
    """How many facts each form could not be made of, by form; how many have no known value, and how many are told by the paraphrase."""
    made = Counter(one.form for one in asked)
    return {form: len(facts) - made[form] for form in FORMS} | {
        "value": sum(fact.known == "whole" for fact in facts),
        "reworded": sum(fact.reworded for fact in facts),
    }
