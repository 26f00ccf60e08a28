"""Names of many owners, found in a text together: as given, rearranged, or misspelt by a letter or two.

A name is a row of words. Words are looked up in dictionaries, so a prompt costs about the same whether one person or ten
thousand are watched for, and adding or removing one is instant. Misspelt words are found by an index of deletions (Garbe's
SymSpell): two words within d edits have a common word that lies at most d deletions from each.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Literal, NamedTuple, TypeVar

from expunge.guards.canonical import fold

_MARKS = "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff"
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u3005-\u3007\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese, Japanese
    "\uac00-\ud7a3"  # Korean, whose particles stick to names
)
WORD = re.compile(rf"[{_KATAKANA}]+|[{UNSPACED}]|(?:(?![{_KATAKANA}{UNSPACED}])[\w{_MARKS}])+")
"""A word; in scripts that write no spaces between words, one character. A run of katakana is a word: it writes foreign names."""
NATIVE = "\nщщ ψψ ֆֆ 的的"
"""Makes a text Cyrillic, Greek, Armenian and Chinese, so that a name whose letters all look Latin keeps its own."""
_INSIDE = re.compile(r"(?<=\w)['’ʼ‐‑-](?=\w)")

FUZZY = ((10, 2), (6, 1))
"""A name of so many characters may be so many edits away; shorter ones must stand as they are."""
LETTERS_PER_EDIT = 4
"""A word may differ by one edit for each three of its letters, so that no short word turns into another."""
LONGEST = 24
"""Longer words, and words with digits, are never read as misspelt."""
BEGINNING = 7
"""Letters whose deletions are indexed: words within so many edits have beginnings within as many."""
REMEMBERED = 4096
"""Words read whose near ones are kept at hand: prompts are made of the same few."""
PARTS = 4
"""Names of more parts are not rearranged."""


class Hit(NamedTuple):
    owner: str | None
    """Whose name or value it is; None for people who stay."""
    alias: str
    """As it was added."""
    start: int
    end: int
    distance: int
    """Edits: 0 where every letter is right."""
    kind: Literal["name", "value"]
    given: bool
    """Whether its words stand in the order and division in which they were added."""


class _Entry(NamedTuple):
    owner: str | None
    alias: str
    kind: Literal["name", "value"]
    edits: int
    """The most that are forgiven."""
    given: bool


_Words = tuple[str, ...]
_Key = TypeVar("_Key")


Visible = Callable[[str], bool]
"""Whose names and values count. People who stay always do."""


class AliasIndex:
    """Names and values by owner. `known` are names of people who stay: where one of them fits better, nobody else is meant.

    Texts may be read while another thread adds or removes. Whoever begins to read after an addition has returned finds it.
    """

    def __init__(self, known: Iterable[str] = ()):
        self._entries: dict[_Words, tuple[_Entry, ...]] = {}
        self._next: dict[_Words, dict[str, int]] = {}
        """How often each word follows each beginning of a row of words."""
        self._indexed: dict[tuple[str, int], int] = {}
        """How often each word is in use with so many deletions."""
        self._near: dict[str, tuple[str, ...]] = {}
        """Words by what is left of them after deletions."""
        self._heads: dict[str, list[str | None]] = {}
        """Who has a word that begins so and goes on. A list only grows; who goes leaves another one behind, for it may be being read."""
        self._read: dict[str, set[str]] = {}
        """Near words of the words read lately. Another one after each change: who still writes in the old one does no harm."""
        self._owned: dict[str | None, dict[tuple[_Words, _Entry], None]] = {}
        self._headed: dict[str | None, set[str]] = {}
        for name in known:
            self._add(None, name, "name")

    @property
    def edition(self) -> object:
        """Another object after each change."""
        return self._read

    def add(self, owner: str, names: Iterable[str], values: Iterable[str] = ()) -> None:
        """Names are found in other orders and misspelt as well; values only as they are. What the owner has already stays."""
        for name in names:
            self._add(owner, name, "name")
        for value in values:
            self._add(owner, value, "value")
        self._read = {}

    def remove(self, owner: str) -> None:
        """Everything of this owner: afterwards the index is as if it had never been added."""
        for words, entry in self._owned.pop(owner, {}):
            _drop(self._entries, words, entry)
            self._count(words, entry, _less)
        for head in self._headed.pop(owner, ()):
            left = [other for other in self._heads[head] if other != owner]
            if left:
                self._heads[head] = left
            else:
                del self._heads[head]
        self._read = {}

    def find(self, text: str, visible: Visible | None = None) -> list[Hit]:
        """Where owners stand in canonical text, by place. The names of those who are not `visible` are as if they were not there."""
        return [hit for hit in self.read(text, visible) if hit.owner is not None]

    def read(self, text: str, visible: Visible | None = None) -> list[Hit]:
        """The same, with the people who stay."""
        return self.scan(text, visible)[0]

    def unfinished(self, text: str, visible: Visible | None = None) -> int:
        """Where the earliest words stand that may become a name or a value when more words follow; the text's length if none do.

        The last word is whole, and may be the first half of one that is written with a space in it.
        """
        return self.scan(text, visible)[1]

    def scan(self, text: str, visible: Visible | None = None, cut: bool = False) -> tuple[list[Hit], int]:
        """`read` and `unfinished` in one go. `cut`: the text breaks off, so half a word at its end is no misspelling."""
        spans = [match.span() for match in WORD.finditer(text)]
        words = [text[start:end] for start, end in spans]
        found: dict[tuple[int, int, str | None, str, str], Hit] = {}
        unfinished = len(words)
        for first, end, row, written in self._rows(words, visible):
            half = end > len(words)
            edits = sum(map(_edits, written, row))
            total = edits + (end - first - len(row) - (1 + cut) * half)  # a space within a word is an edit
            if end >= len(words) and first < unfinished and self._goes_on(row, total, visible):
                unfinished = first
            for entry in () if half else self._entries.get(row, ()):
                if total <= entry.edits and _seen(entry.owner, visible):
                    place = spans[first][0], spans[end - 1][1]
                    hit = Hit(entry.owner, entry.alias, *place, int(total), entry.kind, entry.given)
                    key = (*place, entry.owner, entry.alias, entry.kind)
                    found[key] = min(found.get(key, hit), hit, key=_rank)
        hits = sorted(_nearest(list(found.values())), key=lambda hit: (hit.start, hit.end, str(hit.owner)))
        return hits, spans[unfinished][0] if unfinished < len(words) else len(text)

    def _goes_on(self, row: _Words, edits: float, visible: Visible | None) -> bool:
        """Whether a longer row begins so that counts and forgives these edits."""
        if not row:
            return True
        rows = [row] if math.isfinite(edits) else []
        while rows:
            row = rows.pop()
            for word in tuple(self._next.get(row, ())):
                longer = (*row, word)
                entries = self._entries.get(longer, ())
                if any(entry.edits >= edits and _seen(entry.owner, visible) for entry in entries):
                    return True
                rows.append(longer)
        return False

    def _rows(
        self, words: Sequence[str], visible: Visible | None
    ) -> Iterator[tuple[int, int, _Words, _Words]]:
        """Beginnings of rows in the index that may be meant by `words[first:end]`, and how each of their words is written.

        Two neighbours in the text may be one word in the index. Where the last word may be the first of two, `end` is past it.
        """
        read = self._read
        near = {word: self._near_words(word, read) for word in set(words)}
        half = any(_seen(owner, visible) for owner in self._heads.get(words[-1] if words else "", ()))
        pairs = ["".join(pair) for pair in pairwise(words)]
        paths: list[tuple[int, int, _Words, _Words]] = [(i, i, (), ()) for i in range(len(words))]
        while paths:
            first, at, row, written = paths.pop()
            following = self._next.get(row, {})
            if at == len(words) - 1 and half and following:
                yield first, at + 2, row, written
            options = [(word, words[at], at + 1) for word in near[words[at]] if word in following]
            if at < len(pairs) and pairs[at] in following:
                options.append((pairs[at], pairs[at], at + 2))
            for word, spelled, end in options:
                longer, as_written = (*row, word), (*written, spelled)
                yield first, end, longer, as_written
                if end < len(words) and longer in self._next:
                    paths.append((first, end, longer, as_written))

    def _near_words(self, word: str, read: dict[str, set[str]]) -> set[str]:
        """Indexed words that may be meant: all within the edits allowed, and some more."""
        found = read.get(word)
        if found is None:
            if len(read) >= REMEMBERED:
                read.clear()
            near = self._near
            left = deletions(word, _allowed(word)) if near else ()
            found = read[word] = {word}.union(*(near.get(rest, ()) for rest in left))
        return found

    def _add(self, owner: str | None, alias: str, kind: Literal["name", "value"]) -> None:
        owned, headed = self._owned.setdefault(owner, {}), self._headed.setdefault(owner, set())
        new: set[str] = set()
        reading, spans = fold(alias)
        readings = {reading}
        if spans is not None:  # not plain ASCII
            readings.add(fold(alias + NATIVE)[0][: -len(NATIVE)])
        for reading in readings:
            for words, edits, given in _forms(reading, kind):
                entry = _Entry(owner, alias, kind, edits, given)
                if (words, entry) not in owned:
                    owned[words, entry] = None
                    self._entries[words] = (*self._entries.get(words, ()), entry)
                    self._count(words, entry, _more)
                    new.update(words)
        for head in {word[:length] for word in new for length in range(1, len(word))} - headed:
            self._heads.setdefault(head, []).append(owner)
            headed.add(head)

    def _count(self, words: _Words, entry: _Entry, change: Callable[..., bool]) -> None:
        """One more or one less use of these words, their beginnings and their deletions."""
        for i, word in enumerate(words):
            row = words[:i]
            following = self._next.get(row)
            if following is None:
                following = self._next[row] = {}
            if change(following, word) and not following:
                del self._next[row]
            depth = min(entry.edits, _allowed(word))
            if depth and change(self._indexed, (word, depth)):
                alone = (word,)
                for rest in deletions(word, depth):
                    if change is _less:
                        _drop(self._near, rest, word)
                    elif (others := self._near.setdefault(rest, alone)) is not alone:
                        self._near[rest] = (*others, word)


def _forms(alias: str, kind: str) -> Iterator[tuple[_Words, int, bool]]:
    """The rows of words that mean an alias, with the edits that are forgiven, and whether they are as given."""
    given = tuple(WORD.findall(alias))
    if not given:
        return
    edits = next((most for length, most in FUZZY if len(" ".join(given)) >= length), 0)
    yield given, edits if kind == "name" else 0, True
    if kind == "value":
        return
    tight = tuple(WORD.findall(_INSIDE.sub("", alias)))
    if tight != given:
        yield tight, edits, True
    joined = "".join(given)
    if len(given) > 1 and WORD.fullmatch(joined):
        yield (joined,), min(edits, 1), False
    parts = [tuple(WORD.findall(part)) for part in alias.split()]
    for i in range(1, len(parts) if len(parts) <= PARTS else 1):
        turned = tuple(word for part in (*parts[i:], *parts[:i]) for word in part)
        if turned != given:
            yield turned, edits, False


def _allowed(word: str) -> int:
    """How many edits a word may have."""
    if len(word) > LONGEST or not word.isalpha():
        return 0
    return min(FUZZY[0][1], len(word) // LETTERS_PER_EDIT)


def _edits(written: str, word: str) -> float:
    """Infinite where there are more than are allowed."""
    edits = 0 if written == word else distance(written, word)
    return edits if edits <= _allowed(word) else math.inf


def deletions(word: str, depth: int) -> set[str]:
    """The beginning of a word without up to `depth` of its letters."""
    word = word[:BEGINNING]
    found = {word}
    for kept in range(max(len(word) - depth, 0), len(word)):
        found.update(map("".join, combinations(word, kept)))
    return found


def distance(a: str, b: str) -> int:
    """Letters added, left out, exchanged, or swapped with their neighbour (Damerau's, each letter edited once)."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    a, b = a[start:], b[start:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    if not a or not b or len(a) + len(b) <= 3:
        return max(len(a), len(b))
    if len(a) == len(b) == 2:
        return 1 if a == b[::-1] else 2
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        line = [i]
        for j, other in enumerate(b, 1):
            best = min(row[j] + 1, line[j - 1] + 1, row[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                best = min(best, before[j - 2] + 1)
            line.append(best)
        before, row = row, line
    return row[-1]


def _seen(owner: str | None, visible: Visible | None) -> bool:
    return owner is None or visible is None or visible(owner)


def _rank(hit: Hit) -> tuple[int, bool]:
    return hit.distance, not hit.given


def _nearest(hits: Sequence[Hit]) -> list[Hit]:
    """Without the names that fit worse than somebody else's at the same place. A name within a longer one does not count."""
    names = sorted((hit for hit in hits if hit.kind == "name"), key=lambda hit: hit.start)
    starts = [hit.start for hit in names]
    longest = max((hit.end - hit.start for hit in names), default=0)

    def beaten(hit: Hit) -> bool:
        around = names[bisect_left(starts, hit.start - longest) : bisect_left(starts, hit.end)]
        return any(
            other.owner != hit.owner
            and _rank(other) < _rank(hit)
            and other.end > hit.start
            and (other.start < hit.start or other.end > hit.end or other[2:4] == hit[2:4])
            for other in around
        )

    return [hit for hit in hits if hit.kind == "value" or not beaten(hit)]


def _more(counts: dict[_Key, int], key: _Key) -> bool:
    """Count one more; whether it is the first."""
    counts[key] = counts.get(key, 0) + 1
    return counts[key] == 1


def _less(counts: dict[_Key, int], key: _Key) -> bool:
    """Count one less; whether it was the last."""
    counts[key] -= 1
    if counts[key]:
        return False
    del counts[key]
    return True


def _drop(lists: dict[_Key, tuple], key: _Key, gone: object) -> None:
    """One `gone` out of the list at `key`, and the list itself when nothing is left."""
    left = list(lists[key])
    left.remove(gone)
    if left:
        lists[key] = tuple(left)
    else:
        del lists[key]
