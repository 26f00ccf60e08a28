"""One canonical form for all the ways of writing the same thing, with the way back to the original text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Canonical:
    text: str
    """What detectors read."""
    offsets: tuple[tuple[int, int], ...]
    """For each character of `text`, the span of the original that it came from."""
    views: tuple[str, ...] = ()
    """Other readings of the text (decoded runs, digits read as letters): each is looked at as well, none replaces it."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original text behind `text[start:end]`."""
        return self.offsets[start][0], self.offsets[end - 1][1]


def canonicalise(text: str) -> Canonical:
    """Compatibility characters and capitals folded."""
    found, offsets = [], []
    for i, character in enumerate(text):
        folded = unicodedata.normalize("NFKC", character).casefold()
        found.append(folded)
        offsets += [(i, i + 1)] * len(folded)
    return Canonical("".join(found), tuple(offsets))
