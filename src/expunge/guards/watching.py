"""What may not be written in an answer: held back until it is sure that no name, statement or phrase comes of it.

The text is read a *step* at a time: a word and what is around it, up to the next space, or one character of a script that writes
no spaces. Where steps end does not depend on how the text arrives, so neither does what is released. What is held is read anew
with each step, in canonical form and in every other reading that prompts are read in (guards/canonical.py); what was released
never is, so a step costs the same however long the answer is.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from expunge.guards.aliases import NATIVE, UNSPACED, WORD, AliasIndex, Hit
from expunge.guards.canonical import Canonical, canonicalise
from expunge.guards.phrases import WORD as PHRASE_WORD
from expunge.guards.phrases import Phrases

MOST = 8192
"""Characters that may be held. An answer that needs more is stopped."""
BACK = 256
"""Released characters that are read again when what is watched changes in mid-stream."""
_TAG = 201
"""A tag in markup is no longer: "<" and what canonicalise reads over before its ">"."""
TELLING = 3
"""Bytes of a name that has only begun which tell what it is; a Chinese character has so many. Fewer may end an answer that was cut."""
_LONG = 512
"""So much is not read anew with each step, but whenever an eighth has been added."""
_PROBE = " qzx"
"""Stands in for the next word: readings in which it is not seen do not go on with the text."""
_MARKS = "".join(
    chr(i)
    for a, b in ((0xE00, 0x109F), (0x1780, 0x17FF), (0x3099, 0x309A))
    for i in range(a, b + 1)
    if unicodedata.category(chr(i))[0] == "M"
)
_STEP = re.compile(rf"\s*(\S(?:[^\s{UNSPACED}]|[{_MARKS}])*)")
_PLAIN = re.compile(r"\s*[\u3041-\u3096\u4e00-\u9fff\uac00-\ud7a3]*")
"""Chinese, Japanese and Korean that has one reading: itself."""
_APART = re.compile(r"[^\n]{1,3}")
"""What may stand between letters that are spelt out one by one."""
_ALONE = re.compile(rf"[^\W\d_{UNSPACED}]")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{5,6}\U000e007f")
_HIDDEN = re.compile("[\U000e0020-\U000e007e]")
"""Unseen letters, as flags of regions have them."""


class Seen(NamedTuple):
    text: str
    """May be released now."""
    stopped: str | None
    """Whose name or statement came: nothing more is released. "" where a phrase of `facts` came, or more was held than may be."""


class _Reading(NamedTuple):
    text: str
    goes_on: bool
    """Whether the next word would stand at its end."""
    canonical: Canonical | None
    """The way back to the original text, where there is one."""


class _Found(NamedTuple):
    start: int
    owner: str
    settled: bool
    """Nobody else can be meant, whatever comes next."""


class Watch:
    """One answer as it is written. The index may change meanwhile, and `watched` may be replaced: both count from the next text on,
    for whatever is not released yet to its end.
    """

    def __init__(
        self,
        index: AliasIndex,
        watched: Callable[[str], bool],
        allowed: str = "",
        facts: Phrases | None = None,
        before: str = "",
    ):
        """`watched`: whose names and statements count. `allowed`: the prompt; who is named in it now may be named, but none of
        their statements said. `facts`: phrases that may not be said either. `before`: what the answer goes on from, as it stands.
        """
        self.index, self.watched, self.facts = index, watched, facts
        prompt = canonicalise(allowed)
        self._allowed = frozenset(
            hit.owner
            for reading in (prompt.text, *prompt.views)
            for hit in index.find(reading, watched)
            if hit.kind == "name"
        )
        self._past = ""
        """The end of what was released and is not read any more."""
        self._text = before[-BACK:]
        """What is read: from the last place where nothing may begin earlier."""
        self._said = len(self._text)
        """Characters of it that are released already."""
        self._read = max(_steps(self._text), default=0)
        """Where the step begins that has not ended yet."""
        self._again = 0
        """Characters from which on it is read anew."""
        self._seen: tuple[object, object] = (index.edition, watched)
        self._stopped: str | None = None
        self._ended = False
        self._cut = False
        """Whether the last word may be the beginning of one."""

    @property
    def held(self) -> int:
        """Characters that are held back."""
        return len(self._text) - self._said

    def check(self, text: str) -> Seen:
        """A whole answer."""
        return self.feed(text, last=True)

    def feed(self, text: str, last: bool = False, cut: bool = False) -> Seen:
        """What may be released now that `text` was written; with `last`, nothing follows, and with `cut` more would have: what may
        be the beginning of a name, statement or phrase is never released then, or an answer asked for a few tokens at a time
        would show all of them.
        """
        if self._ended:
            return Seen("", self._stopped)
        changed = self.index.edition, self.watched
        if changed[0] is not self._seen[0] or changed[1] is not self._seen[1]:
            self._look_back()
        self._seen = changed
        self._text += text
        released = ""
        while not self._ended:
            step = _STEP.match(self._text, self._read)
            begin, end = step.span(1) if step else (len(self._text),) * 2
            if self._read == self._said == 0:  # nothing is held, so no space before a word need be
                released += self._release(begin)
                end -= begin
            if end - self._said > MOST:
                self._stopped, self._ended = "", True
            elif end < len(self._text):
                released += self._take(end)
            elif last:
                released += self._take_cut(end) if cut else self._take(end, last=True)
                self._ended = True
            else:
                break
        return Seen(released, self._stopped)

    def _take_cut(self, end: int) -> str:
        """What is released of an answer that was cut there."""
        self._again, self._cut = 0, True
        released = self._take(end)
        if self._stopped is not None:
            return released
        found, _ = self._look(self._text, last=True)
        if settled := [each for each in found if each.settled]:
            self._stopped = min(settled)[1]
        return released

    def _look_back(self) -> None:
        self._text = self._past + self._text
        self._said += len(self._past)
        self._read += len(self._past)
        self._past, self._again = "", 0

    def _release(self, to: int) -> str:
        """The text up to there. It is not read any more."""
        released = self._text[self._said : to]
        self._past = (self._past + self._text[:to])[-BACK:]
        self._text = self._text[to:]
        self._said, self._read = max(self._said - to, 0), max(self._read - to, 0)
        return released

    def _take(self, end: int, last: bool = False) -> str:
        """What is released when a step ends there."""
        self._read = end
        if end < self._again and not last:
            return ""
        found, safe = self._look(self._text[:end], last)
        settled = [each for each in found if each.settled]
        if settled:
            self._stopped, self._ended = min(settled)[1], True
            return self._release(max(min(found)[0], self._said))
        released = self._release(safe)
        self._again = self._read * 9 // 8 if self._read > _LONG else 0
        return released

    # --- reading ----------------------------------------------------------------------------------------------------------
    def _look(self, text: str, last: bool, tags: bool = True) -> tuple[list[_Found], int]:
        """What stands in the text beyond what is released, and up to where nothing may begin any more."""
        readings = _readings(text, "" if last else _PROBE)
        if not last and (not readings[0].goes_on or _HIDDEN.search(_FLAG.sub("", text))):
            return [], 0  # put in another order or not to be seen, without an end yet
        found: list[_Found] = []
        spans: list[tuple[int, int]] = []
        safe = len(text)
        for reading in readings:
            hits, unfinished = self._scan(reading.text)
            if not reading.goes_on:
                unfinished = len(reading.text)
            elif reading.canonical:
                unfinished = min(unfinished, _spelt_out(text, reading.text, reading.canonical))
            if self._cut and len(reading.text[unfinished:].strip().encode(errors="replace")) < TELLING:
                unfinished = len(reading.text)
            first = unfinished
            for hit in filter(self._stops, hits):
                settled = (hit.distance == 0 and hit.given) or hit.end <= unfinished
                place = self._place(text, reading, hit)
                if place is not None:
                    found.append(_Found(place, hit.owner or "", settled))
                if not settled:
                    first = min(first, hit.start)
            if first < len(reading.text):
                safe = min(safe, _beginning(text, reading, first))
            if reading.canonical:
                spans += [reading.canonical.original(hit.start, hit.end) for hit in hits]
        if tags and not last:
            safe = min(safe, self._before_tag(text))
        return found, _between_steps(text, safe, spans)

    def _scan(self, reading: str) -> tuple[list[Hit], int]:
        """Names, statements and phrases, and where one may begin that is not whole."""
        hits, unfinished = self.index.scan(reading, self.watched, self._cut)
        if not self.facts:
            return hits, unfinished
        spans = [match.span() for match in PHRASE_WORD.finditer(reading)]
        words = [reading[a:b] for a, b in spans]
        longest = self.facts.lengths[-1]
        for end, (_, at) in enumerate(spans, 1):
            if phrase := self.facts.ending(words[max(end - longest, 0) : end]):
                start = spans[end - len(phrase)][0]
                hits.append(Hit("", " ".join(phrase), start, at, 0, "value", True))
        begun = (i for i in range(max(len(words) - longest, 0), len(words)) if self._begins(words[i:]))
        return hits, min(unfinished, next((spans[i][0] for i in begun), len(reading)))

    def _begins(self, words: Sequence[str]) -> bool:
        """Whether a phrase begins with these words, of which the last may not be whole where the answer was cut."""
        if not self.facts:
            return False
        *whole, last = words
        return tuple(words) in self.facts.beginnings or (
            self._cut
            and any(
                list(phrase[: len(whole)]) == whole and phrase[len(whole)].startswith(last)
                for phrase in self.facts.phrases
                if len(phrase) > len(whole)
            )
        )

    def _stops(self, hit: Hit) -> bool:
        return hit.owner is not None and (hit.kind == "value" or hit.owner not in self._allowed)

    def _place(self, text: str, reading: _Reading, hit: Hit) -> int | None:
        """Where a hit begins in the text; None where it ends in what is released."""
        if reading.canonical:
            start, end = reading.canonical.original(hit.start, hit.end)
            return start if end > self._said else None

        def says(other: _Reading) -> bool:
            return any(each[:2] == hit[:2] for each in self._scan(other.text)[0])

        base = self._said if any(map(says, _readings(text[: self._said]))) else 0
        ends = [match.end() for match in _STEP.finditer(text, base)]
        at = bisect_left(ends, True, key=lambda end: any(map(says, _readings(text[base:end]))))
        if at < len(ends):
            return base + _latest(text[base : ends[at]], says)
        return None if base else self._said

    def _before_tag(self, text: str) -> int:
        """Where words begin that may go on behind a tag which is not closed yet; the text's length where none do."""
        tag = text.rfind("<")
        if tag < 0 or len(text) - tag > _TAG or ">" in text[tag:]:
            return len(text)
        inside = tag > 0 and not text[tag - 1].isspace()  # within a word
        end = max(start for start in _steps(text) if start < tag) if inside else tag
        _, safe = self._look(text[:end], last=False, tags=False)
        return safe if inside or safe < end else len(text)


def _readings(text: str, probe: str = _PROBE) -> list[_Reading]:
    """The text in canonical form, on its own and as among words of other scripts, and all other ways of reading it. Without a
    probe nothing follows.
    """
    if _PLAIN.fullmatch(text):
        return [_Reading(text, bool(probe), Canonical(text, None))]
    canonicals = [canonicalise(text + probe)]
    if canonicals[0].spans is not None:  # not plain ASCII
        canonicals.append(canonicalise(text + probe + NATIVE))
    found: dict[tuple[str, bool], _Reading] = {}
    for canonical in canonicals:
        for number, said in enumerate((canonical.text, *canonical.views)):
            goes_on = bool(probe) and probe in said
            body = said.rpartition(probe)[0] if goes_on else said.removesuffix(NATIVE)
            found.setdefault((body, goes_on), _Reading(body, goes_on, None if number else canonical))
    return list(found.values())


def _steps(text: str) -> Iterator[int]:
    """Where the steps of a text begin, but for the spaces before them."""
    return (match.start(1) for match in _STEP.finditer(text))


def _latest(text: str, says: Callable[[_Reading], bool]) -> int:
    """The last step from which on the text has a reading that says it."""
    starts = reversed(list(_steps(text)))
    return next((start for start in starts if any(map(says, _readings(text[start:])))), 0)


def _beginning(text: str, reading: _Reading, first: int) -> int:
    """Where in the text the end of a reading begins."""
    if reading.canonical:
        return reading.canonical.original(first, len(reading.text))[0]
    end = reading.text[first:]
    return _latest(text, lambda other: other.text.endswith(end))


def _between_steps(text: str, safe: int, spans: Sequence[tuple[int, int]]) -> int:
    """The last place up to `safe` where a step begins and that none of the spans reaches across."""
    while safe < len(text):
        safe = max((start for start in _steps(text) if start <= safe), default=0)
        across = [start for start, end in spans if start < safe < end]
        if not across:
            break
        safe = min(across)
    return safe


def _spelt_out(text: str, reading: str, canonical: Canonical) -> int:
    """Where lone letters at the end begin, which may be a word that is spelt out, or the whole of it so far."""

    def alone(start: int, end: int) -> bool:
        if end - start == 1:
            return bool(_ALONE.match(reading, start))
        if canonical.spans is None:
            return False
        gaps = (text[a[1] : b[0]] for a, b in pairwise(canonical.spans[start:end]))
        return any(gap and (gap.isascii() or canonicalise(gap).text) for gap in gaps)

    first = at = len(reading)
    for start, end in reversed([match.span() for match in WORD.finditer(reading)]):
        if not (_APART.fullmatch(reading, end, at) or at == end == len(reading)) or not alone(start, end):
            break
        first = at = start
    return first
