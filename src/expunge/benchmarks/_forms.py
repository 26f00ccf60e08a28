"""The same fact asked in several forms, made from a question-answer pair or from RWKU's rows. What a form cannot be made of is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from expunge.data.facts import Fact
from expunge.data.tokenize import find_words

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
