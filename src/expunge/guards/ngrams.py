"""The pieces of a text that detectors count."""

from __future__ import annotations

import re
from itertools import pairwise


def ngrams(text: str) -> list[str]:
    """Words, pairs of neighbouring words, and 3- to 5-letter pieces of words with their borders."""
    return [gram for kind in ngrams_by_kind(text) for gram in kind]


def ngrams_by_kind(text: str) -> tuple[list[str], list[str], list[str]]:
    """The same three kinds, each on its own."""
    words = re.findall(r"\w+", text.casefold())
    pieces = [
        framed[i : i + n]
        for framed in (f"<{word}>" for word in words)
        for n in (3, 4, 5)
        for i in range(len(framed) - n + 1)
    ]
    return words, [f"{a} {b}" for a, b in pairwise(words)], pieces
