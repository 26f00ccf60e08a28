"""Target names: where they stand in a text, and which tokens of written text belong to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from expunge.guards.aliases import WORD, AliasIndex, Hit
from expunge.guards.canonical import canonicalise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORD = re.compile(r"\w+")
_LITTLE = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "by",
        "de",
        "der",
        "for",
        "from",
        "in",
        "la",
        "le",
        "of",
        "on",
        "or",
        "the",
        "to",
        "van",
        "von",
        "with",
    ]
)


_NAMES, _WORDS = "names", "words"


class TargetNames:
    """Names and aliases of one removal request. Capitals do not matter, nor do look-alike letters and small typos."""

    def __init__(self, names: Iterable[str]):
        self.names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
        parts = [_WORD.findall(name.casefold()) for name in self.names]
        self.words = frozenset(
            word for words in parts for word in words if word not in _LITTLE or len(words) == 1
        )
        """The words that are corrupted or replaced, each on its own: a surname alone still means its bearer."""

    def __bool__(self) -> bool:
        return bool(self.words)

    def mentions(self, text: str) -> bool:
        """Whether a whole name or alias stands in the text, in whatever spelling."""
        canonical = canonicalise(text)
        return any(
            hit.owner == _NAMES
            for view in (canonical.text, *canonical.views)
            for hit in self._index.find(view)
        )

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Character spans of every word of a name, in whatever spelling; a word on its own may have one typo."""
        found = [match.span() for match in _WORD.finditer(text) if match.group().casefold() in self.words]
        canonical = canonicalise(text)
        for hit in self._index.find(canonical.text):
            if hit.owner == _NAMES or hit.distance <= 1:
                found += [canonical.original(*span) for span in self._parts(canonical.text, hit)]
        return _merged(found)

    def _parts(self, text: str, hit: Hit) -> Iterator[tuple[int, int]]:
        for match in WORD.finditer(text, hit.start, hit.end):
            if match.group() not in _LITTLE or hit.owner == _WORDS:
                yield match.span()

    @cached_property
    def _index(self) -> AliasIndex:
        """The whole names, and each of their words on its own."""
        index = AliasIndex()
        index.add(_NAMES, self.names)
        index.add(_WORDS, sorted(self.words))
        return index

    def replace(self, text: str, placeholder: str) -> str:
        """The text with each run of name words replaced by one placeholder."""
        found = ""
        end = 0
        for start, stop in self.spans(text):
            between = text[end:start]
            if not found or not end or between.strip():
                found += between + placeholder
            end = stop
        return found + text[end:]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


class WrittenNames:
    """Which tokens of a text that is being written belong to a name, decided token by token from what stands before.

    A token counts as soon as the word it belongs to could become a word of a name (two letters of it are enough), so that no
    later token reads it in the clear. Looking back only, the rule gives the same answer while writing and while scoring.
    """

    def __init__(self, names: TargetNames, tokenizer: PreTrainedTokenizerBase):
        self.names = names
        self.tokenizer = tokenizer
        self._starts = frozenset(
            word[:n] for word in names.words for n in range(min(2, len(word)), len(word) + 1)
        )

    def mask(self, ids: Sequence[int], start: int) -> np.ndarray:
        """[len(ids) - start] bool for `ids[start:]`, where `ids` is everything written so far."""
        first = max(0, start - 16)  # no name word spans more tokens than this
        word = ""
        found = []
        for i in ids[first:]:
            hit, word = self._belongs(word, self._pieces[i])
            found.append(hit)
        return np.array(found[start - first :], dtype=bool)

    def _belongs(self, word: str, piece: str) -> tuple[bool, str]:
        """Whether a piece of text after an unfinished `word` belongs to a name, and the word left unfinished after it."""
        text = word + piece
        runs = [match for match in _WORD.finditer(text) if match.end() > len(word)]
        hit = any(
            match.group() in (self._starts if match.end() == len(text) else self.names.words)
            for match in runs
        )
        return hit, runs[-1].group() if runs and runs[-1].end() == len(text) else ""

    @cached_property
    def verdicts(self) -> list[bool | None]:
        """[vocabulary] whether a token belongs to a name; None where that depends on the word it continues."""
        parts = "\n".join(self.names.words)
        verdicts: list[bool | None] = []
        for piece in self._pieces:
            continues = _WORD.match(piece)
            verdicts.append(None if continues and continues.group() in parts else self._belongs("", piece)[0])
        return verdicts

    @cached_property
    def _pieces(self) -> list[str]:
        if self.tokenizer not in _PIECES:
            _PIECES[self.tokenizer] = added_text(self.tokenizer)
        return _PIECES[self.tokenizer]


_PIECES: WeakKeyDictionary[PreTrainedTokenizerBase, list[str]] = WeakKeyDictionary()
"""One table a tokenizer, however many requests watch over its tokens."""


def added_text(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """[vocabulary] the text that each token adds after another word, casefolded."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    texts = tokenizer.batch_decode(
        [[anchor, i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False
    )
    lead = len(tokenizer.decode([anchor], clean_up_tokenization_spaces=False))
    return [text[lead:].casefold() for text in texts]
