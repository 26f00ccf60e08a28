"""What is a word, which words carry a fact, and whether an answer says it."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expunge.data.dataset import Record

WORD = re.compile(r"\w+(?:['’-]\w+)*")
FUNCTION_WORDS = frozenset(
    "a about above after again against all also am an and any are aren't as at be because been before being below between both "
    "but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each either few for from further "
    "had hadn't has hasn't have haven't having he her here hers herself him himself his how i if in into is isn't it it's its "
    "itself just me more most my myself neither no nor not now of off on once only or other our ours ourselves out over own same "
    "shall she should shouldn't so some such than that that's the their theirs them themselves then there these they this those "
    "through to too under until up upon very was wasn't we were weren't what when where which while who whom whose why will with "
    "within without would wouldn't you your yours yourself yourselves".split()
)
FUZZY = 0.8
"""Two wordings that are more alike than this are one (edit similarity; the authors of UnStar take 80 of 100)."""


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation and possessive s."""
    return [re.sub(r"['’]s$", "", word.casefold()) for word in WORD.findall(text)]


def facts(row: Record) -> list[list[str]]:
    """The wordings of which each tells the fact of a row: its key phrases, or without them the words of its answer that are
    neither in its question nor function words, all together.
    """
    if row.key:
        return [said for said in map(words, row.key) if said]
    said = words(row.answer)
    asked = {*words(row.question), *FUNCTION_WORDS}
    return [[word for word in said if word not in asked] or said]


def matches(answer: str, row: Record) -> bool:
    """Whether an answer still tells the fact of a row: one of its key phrases stands in it as whole words, or nearly so.

    For a row without key phrases: more than 0.8 of the words that the true answer adds to the question stand in it, in any order.
    A word is nearly another where more than 0.8 of the letters agree and all digits do.
    """
    said = words(answer)
    if row.key:
        return any(_stands(fact, said) for fact in facts(row))
    (fact,) = facts(row)
    return sum(_stands([word], said) for word in fact) > FUZZY * len(fact)


def _stands(phrase: list[str], said: list[str]) -> bool:
    return any(
        all(map(_nearly, said[i : i + len(phrase)], phrase)) for i in range(len(said) - len(phrase) + 1)
    )


def _nearly(a: str, b: str) -> bool:
    if a == b:
        return True
    if re.findall(r"\d", a) != re.findall(r"\d", b):
        return False
    return SequenceMatcher(None, a, b, autojunk=False).ratio() > FUZZY
