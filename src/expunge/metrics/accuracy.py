"""Accuracy: does the answer say the fact?

    hit = the fact's words stand in the answer, whole and in order (where the row says which words carry the fact)
    hit = the answer is the reference               (where it does not)

Capitals, punctuation and spacing do not matter. Range {0, 1} a row.
"""

import re

VERSION = 1


def is_accurate(generation: str, reference: str, value: str = "") -> bool:
    """Whether the answer carries `value`, or without one equals `reference`."""
    said = words(generation)
    if not value:
        return said == words(reference)
    wanted = words(value)
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation."""
    return re.findall(r"\w+", text.casefold())
