"""Forbidden phrases: which words of the forget answers carry the facts, and where they stand in a text.

Everything is read in its canonical form and as words, so " Paris", "PARIS" and "Paris," are the same, and "Parisian" is not. A
character of a script that writes no spaces is a word of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from expunge.data.subjects import capital_runs
from expunge.guards.canonical import canonicalise
from expunge.types import FLOOR, Score

if TYPE_CHECKING:
    from expunge.data.dataset import Record

_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
LETTER = re.compile(rf"[^\W_{_ALONE}]")
"""What would go on with a word, digits too."""
UNFINISHED = re.compile(rf"{LETTER.pattern}+$")
"""A word at the end of a text that the next letter would continue."""
STOP_WORDS = frozenset(
    """a about above after again all also although always am among an and any are around as at be became
    because become been before being below between both but by called came can could did do does during each
    either else ever every few for from further had has have he her here hers him himself his how however i if
    in including into is it its itself just know known knows later less let like made make many may me mine
    more most much must my named near neither never next no nor not now of off often on once one only or other
    our out over own per quite rather s said same say says several shall she should since so some still such t
    tell than that the their theirs them themselves then there these they this those though through thus to
    too toward towards two under until up upon us used very was we well went were what when where whether
    which while who whom whose why will with within without would yes yet you your""".split()
)
"""Words that carry no fact."""
COMMON = 0.05
"""A phrase in more than this share of the retain answers gives nothing away."""
RARE = 0.01
"""A word in no more than this share of them is a phrase by itself."""

Words = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """The words of canonical text."""
    return WORD.findall(text)


def canonical_words(text: str) -> Words:
    return tuple(words_of(canonicalise(text).text))


class Background:
    """How frequent words and phrases are in texts that give nothing away. Without texts nothing is frequent."""

    def __init__(self, texts: Iterable[str]):
        self.texts = [f" {' '.join(canonical_words(text))} " for text in texts]
        self._with: dict[str, list[int]] = defaultdict(list)
        for i, text in enumerate(self.texts):
            for word in set(text.split()):
                self._with[word].append(i)

    @classmethod
    def of(cls, retain: Iterable[Record]) -> Background:
        return cls(text for record in retain if (text := record.answer or record.text))

    def is_rare(self, word: str) -> bool:
        return len(self._with.get(word, ())) <= max(1, RARE * len(self.texts))

    def is_common(self, phrase: Words) -> bool:
        """In more than COMMON of the texts, and in more than one."""
        fewest = min((self._with.get(word, []) for word in phrase), key=len)
        limit = max(1, COMMON * len(self.texts))
        whole = f" {' '.join(phrase)} "
        return len(fewest) > limit and sum(whole in self.texts[i] for i in fewest) > limit


def phrases_of(records: Iterable[Record], background: Background) -> tuple[str, ...]:
    """The phrases that carry the facts of the rows, canonical, each once; a phrase that holds another one is left to that.

    They are the row's `key` where it has one, else dates and numbers, quoted titles, capitalised runs, words that are rare in
    the background, and runs of words that each say something. Left out is what only repeats the question, stop words, lone
    letters and digits, and what is common in the background, except names of several words: who is frequent there may be a
    secret here.
    """
    found: dict[Words, None] = {}
    for record in records:
        question = canonical_words(record.question)
        asked = set(question) | STOP_WORDS
        answer = record.answer or record.text
        marked = record.key or re.findall(r'["“«]([^"”»]+)["”»]', answer)
        for phrase in map(canonical_words, marked):
            if phrase and f" {' '.join(phrase)} " not in f" {' '.join(question)} ":
                found[phrase] = None
        if not record.key:
            names = (canonical_words(run) for run in sorted(capital_runs(answer)))
            told = [
                *(name for name in names if name and STOP_WORDS.isdisjoint((name[0], name[-1]))),
                *(
                    phrase
                    for phrase in _candidates(answer, asked, background)
                    if not background.is_common(phrase)
                ),
            ]
            found |= dict.fromkeys(phrase for phrase in told if set(phrase) - asked)
    return tuple(" ".join(phrase) for phrase in found if not _holds_another(phrase, found))


def _candidates(answer: str, asked: set[str], background: Background) -> Iterator[Words]:
    for match in re.finditer(r"[^\W\d_]\w+", answer):
        first_in_sentence = not re.search(r"[^\s.!?\"“«][\s\"“«]*$", answer[: match.start()])
        if match.group()[0].isupper() and not first_in_sentence:
            yield canonical_words(match.group())
    for number in re.findall(r"\d[\d.,:/-]+", answer):
        yield canonical_words(number)
        yield from ((part,) for part in re.findall(r"\d{3,}", number))
    run: list[str] = []
    for word in [*canonical_words(answer), ""]:
        if word and word not in asked:
            run.append(word)
            if background.is_rare(word) and not re.fullmatch("[a-z0-9]", word):
                yield (word,)
        else:
            if len(run) > 1:
                yield tuple(run)
            run = []


def _holds_another(phrase: Words, others: Iterable[Words]) -> bool:
    inside = {phrase[i:j] for i in range(len(phrase)) for j in range(i + 1, len(phrase) + 1)} - {phrase}
    return not inside.isdisjoint(others)


class Match(NamedTuple):
    phrase: str
    start: int
    """Span in the text that was searched; nothing where only another reading of the text shows the phrase."""
    end: int


class Phrases:
    """A dictionary of phrases. A text is looked up word by word, which costs the same for one phrase and for a thousand."""

    def __init__(self, phrases: Iterable[str]):
        self.phrases = frozenset(words for phrase in phrases if (words := canonical_words(phrase)))
        self.lengths = sorted({len(phrase) for phrase in self.phrases})
        self.beginnings = frozenset(phrase[:n] for phrase in self.phrases for n in range(1, len(phrase)))
        """What may still become a phrase."""
        self.words = frozenset(word for phrase in self.phrases for word in phrase)
        self.last_words = frozenset(phrase[-1] for phrase in self.phrases)

    def __bool__(self) -> bool:
        return bool(self.phrases)

    def ending(self, words: Sequence[str]) -> Words | None:
        """The shortest phrase that ends with the last of these words."""
        if not words or words[-1] not in self.last_words:
            return None
        endings = (tuple(words[-n:]) for n in self.lengths if n <= len(words))
        return next((words for words in endings if words in self.phrases), None)

    def matches(self, text: str, before: str = "") -> list[Match]:
        """Each phrase in a text as it was written, or in another reading of it, that is not already whole in the text `before`
        it. Spans are those of `text`, from 0 where a phrase begins before it.
        """
        canonical = canonicalise(before + text)
        spans = [match.span() for match in WORD.finditer(canonical.text)]
        words = [canonical.text[a:b] for a, b in spans]
        found = []
        for end in (i for i, word in enumerate(words, 1) if word in self.last_words):
            for length in self.lengths:
                phrase = tuple(words[max(end - length, 0) : end])
                if phrase in self.phrases:
                    a, b = canonical.original(spans[end - len(phrase)][0], spans[end - 1][1])
                    if b > len(before):
                        found.append(Match(" ".join(phrase), max(a - len(before), 0), b - len(before)))
        if canonical.views:
            earlier = self._in_views(before) if before else set()
            seen = {match.phrase for match in found} | earlier
            found += [Match(phrase, 0, 0) for phrase in sorted(self._in_views(before + text) - seen)]
        return found

    def _in_views(self, text: str) -> set[str]:
        found = set()
        for view in canonicalise(text).views:
            words = words_of(view)
            endings = (self.ending(words[:i]) for i in range(1, len(words) + 1))
            found |= {" ".join(phrase) for phrase in endings if phrase}
        return found

    def found(self, text: str, prefill: str = "") -> set[str]:
        """The phrases that an answer says, which may begin in the prefilled start of it. It may or may not continue the
        prefill's last word, so both are tried.
        """
        return {
            match.phrase for before in dict.fromkeys(_starts(prefill)) for match in self.matches(text, before)
        }

    def replace(self, text: str, placeholder: str, prefill: str = "") -> str:
        """The text with every phrase replaced; the placeholder alone where a phrase stays readable in another reading of it."""
        spans = sorted(match[1:] for before in _starts(prefill) for match in self.matches(text, before))
        if (0, 0) in spans:
            return placeholder
        kept, end = "", 0
        for start, stop in spans:
            if (
                not kept or text[end:start].strip()
            ):  # neighbours become one, so that nobody counts their words
                kept += text[end:start] + placeholder
            end = max(end, stop)
        kept += text[end:]
        return placeholder if self.found(kept, prefill) else kept


def _starts(prefill: str) -> tuple[str, ...]:
    return (prefill, prefill + " ") if prefill else ("",)


def never_said(score: Score) -> Score:
    """The score of an answer that is held back whenever the model writes it."""
    nothing = np.full(score.tokens, FLOOR, dtype=np.float32)
    return Score(nothing, np.zeros(score.tokens, dtype=bool), floored=True)
