"""Raw texts as training rows of equal length, as MUSE's code cuts them (Shi et al., 2024, arXiv:2407.06460).

    all texts, joined by an empty line  ->  tokens without specials  ->  rows of `length` tokens, the start token among them

The last row is filled up with the beginning of the first one, so that no row is shorter than the others; a text of an exact multiple of
`length` - 1 tokens leaves no empty row behind.
"""

from collections.abc import Callable, Sequence

from expunge.data.dataset import Record

BETWEEN = "\n\n"


def cut(texts: Sequence[str], pieces: Callable[[str], list[str]], length: int) -> list[str]:
    """Texts of `length` - 1 tokens each. `pieces`: a text's tokens as pieces that join to the text again."""
    tokens = pieces(BETWEEN.join(texts))
    room = length - 1
    rows = [tokens[first : first + room] for first in range(0, len(tokens), room)]
    if rows:
        rows[-1] = rows[-1] + rows[0][: room - len(rows[-1])]
    return ["".join(row) for row in rows]


def records(
    texts: Sequence[str], pieces: Callable[[str], list[str]], length: int, name: str
) -> tuple[Record, ...]:
    """The rows as raw texts, numbered after `name`."""
    return tuple(Record(f"{name} {i}", text=text) for i, text in enumerate(cut(texts, pieces, length)))


def partners(forget: Sequence[Record], retain: Sequence[Record]) -> tuple[Record, ...]:
    """The retain rows that MUSE's loop ever draws: forget row i brings retain row i modulo their number, so of a longer retain set only
    its beginning is used.
    """
    return tuple(retain[: len(forget)])
