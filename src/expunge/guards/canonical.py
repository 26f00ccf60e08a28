"""One canonical form for all the ways of writing the same thing, with the way back to the original text.

In this order: escapes decoded (JSON, HTML, percent); text under a right-to-left override put the way it is read; what cannot be
seen dropped; compatibility forms folded (NFKC); marks dropped from Latin, Greek and Cyrillic letters; letters of other scripts
that pass for Latin ones replaced, in words that mix scripts and in words of a script that has no word of its own in the text;
capitals folded; letters spelt out one by one joined. Ordinary text in any script is left as it is, capitals apart. Digits read as
letters, decoded base64 or hexadecimal runs, text without its markup, text spelt in unseen tags and Cyrillic in Latin letters are
further *views*: looked at as well, replacing nothing.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from expunge.guards._confusables import LOOSE, ODD_LATIN, STRICT, TRANSLITERATED, script

MOST = 64 * 1024
"""Characters of a decoded run that are looked at."""
DEPTH = 2
"""How often a decoded run is decoded again."""
CACHED = 1 << 13
"""Letters and words whose forms are kept: those of common writing. Words that are made up come and go."""
_ROUNDS = 4
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_ESCAPE = re.compile(
    r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,24});|(?:%[0-9a-fA-F]{2})+"
)
_ACROSS = re.compile(rf"\u202e|{_ESCAPE.pattern}")
"""What may reach across words: an override, or an escape that stands for one."""
_TOKEN = re.compile(r"\S+|\s+")
_OVERRIDE = re.compile("\u202e([^\u202c\n]*)\u202c?")
_SPELT = re.compile(r"(?<!\w)[^\W\d_]([^\w\n]{1,3}|_)[^\W\d_](?:\1[^\W\d_]){2,}(?!\w)")
_WORD = re.compile(r"\w+")
_LEET = str.maketrans("013457890@$!|", "oieastbgoasil")
_LEET_WORD = re.compile(r"[\w@$!|]{3,}")
_LEET_PAIR = re.compile(r"[^\W\d_][\d_@$!|]|[\d_@$!|][^\W\d_]")
"""Stands in every word of letters and of digits or signs."""
_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_MARKUP = re.compile(r"<[^<>]{1,200}>|[*`~]+|(?<=\w)_+(?=\w)|\\[a-zA-Z]{1,20}\{|[{}]")
TAGS = 0xE0000
"""Unseen characters that spell ASCII from here on."""
_STRIPPED = ("latin", "greek", "cyrillic")


@dataclass(frozen=True)
class Canonical:
    text: str
    """What detectors read."""
    spans: tuple[tuple[int, int], ...] | None
    """For each character of `text`, the span of the original that it came from; None where each came from its own place."""
    views: tuple[str, ...] = ()
    """Other readings of the text, canonical themselves."""

    @cached_property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """`spans`, written out."""
        return tuple((i, i + 1) for i in range(len(self.text))) if self.spans is None else self.spans

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original text behind `text[start:end]`."""
        if self.spans is None:
            return start, end
        within = self.spans[start:end]
        return min(a for a, _ in within), max(b for _, b in within)


def canonicalise(text: str, depth: int = DEPTH) -> Canonical:
    """See the module. Time is linear in the length of the text."""
    folded, spans = fold(text)
    return Canonical(folded, spans, tuple(dict.fromkeys(_views(text, folded, depth))))


def fold(text: str) -> tuple[str, tuple[tuple[int, int], ...] | None]:
    """`text` and `spans` of the canonical form alone."""
    if text.isascii() and not ("\\" in text or "&" in text or "%" in text):
        folded, spans = text.lower(), None
        if _SPELT.search(folded):
            folded, spans = _unzip(_spelt_out(_pairs(text.lower())))
        return folded, spans
    return _unzip(_folded(text))


Letters = list[tuple[str, int, int]]
"""A character and the span of the original that it came from."""


def _pairs(text: str) -> Letters:
    return [(letter, i, i + 1) for i, letter in enumerate(text)]


def _unzip(letters: Letters) -> tuple[str, tuple[tuple[int, int], ...]]:
    return "".join(letter for letter, _, _ in letters), tuple((a, b) for _, a, b in letters)


def _folded(text: str) -> Letters:
    letters = _normal_letters(_pairs(text)) if _ACROSS.search(text) else list(_by_word(text))
    for _ in range(_ROUNDS):
        letters = _latin_looks(letters)
        letters = [(part, a, b) for letter, a, b in letters for part in letter.casefold()]
        if _replaced(letters, _ESCAPE, _decode) is letters:
            break
        letters = _normal_letters(letters)  # an escape that was itself in disguise
    return _spelt_out(letters)


def _by_word(text: str) -> Iterator[tuple[str, int, int]]:
    """The same letters where nothing reaches across words: each word that is not ASCII is worked out once."""
    for match in _TOKEN.finditer(text):
        word, at = match.group(), match.start()
        if word.isascii():
            yield from ((letter, i, i + 1) for i, letter in enumerate(word, at))
        else:
            yield from ((letter, a + at, b + at) for letter, a, b in _normal_word(word))


@lru_cache(CACHED)
def _normal_word(word: str) -> tuple[tuple[str, int, int], ...]:
    return tuple(_normal_letters(_pairs(word)))


def _normal_letters(letters: Letters) -> Letters:
    for _ in range(_ROUNDS):
        decoded = _replaced(letters, _ESCAPE, _decode)
        if decoded is letters:
            break
        letters = decoded
    letters = _overridden(letters)
    letters = [found for found in letters if not _unseen(found[0])]
    letters = [part for cluster in _clusters(letters) for part in _normal(cluster)]
    return [found for found in letters if not _unseen(found[0])]


def _replaced(letters: Letters, pattern: re.Pattern[str], write: Callable[[str], str]) -> Letters:
    """Each match rewritten; what is written anew stands for the whole span of its match. The same list where nothing matches."""
    text = "".join(letter for letter, _, _ in letters)
    found: Letters = []
    end = 0
    for match in pattern.finditer(text):
        written = write(match.group())
        if written == match.group():
            continue
        a, b = letters[match.start()][1], letters[match.end() - 1][2]
        found += letters[end : match.start()]
        found += [(letter, a, b) for letter in written]
        end = match.end()
    return found + letters[end:] if end else letters


def _decode(escape: str) -> str:
    if escape[0] == "\\":
        return chr(int(escape[2:], 16))
    if escape[0] == "&":
        return html.unescape(escape)
    raw = bytes.fromhex(escape.replace("%", ""))
    return raw.decode("utf-8", errors="replace") if not raw.isascii() else raw.decode()


def _overridden(letters: Letters) -> Letters:
    """Letters between a right-to-left override and its end, in the order in which they are read."""
    text = "".join(letter for letter, _, _ in letters)
    found = list(letters)
    for match in _OVERRIDE.finditer(text):
        start, end = match.span(1)
        found[start:end] = letters[start:end][::-1]
    return found


@lru_cache(CACHED)
def _unseen(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf" or bool(_INVISIBLE.match(letter))


def _clusters(letters: Letters) -> Iterator[Letters]:
    """A letter with the marks on it; syllables of jamo stay together."""
    cluster: Letters = []
    for found in letters:
        joins = unicodedata.combining(found[0]) or "\u1161" <= found[0] <= "\u11ff"
        if cluster and not joins:
            yield cluster
            cluster = []
        cluster.append(found)
    if cluster:
        yield cluster


def _normal(cluster: Letters) -> Letters:
    text = "".join(letter for letter, _, _ in cluster)
    normal = _normal_text(text)
    if normal == text:
        return cluster
    return [(letter, cluster[0][1], cluster[-1][2]) for letter in normal]


@lru_cache(CACHED)
def _normal_text(text: str) -> str:
    if text.isascii():
        return text
    normal = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text))
    if len(normal) > 3 * len(text):  # a ligature that stands for a phrase
        return text
    if script(normal[:1]) in _STRIPPED or normal[:1].isascii():
        normal = "".join(letter for letter in normal if unicodedata.category(letter) not in ("Mn", "Me"))
    return unicodedata.normalize("NFC", normal).translate(ODD_LATIN)


def _latin_looks(letters: Letters) -> Letters:
    """Words that mix scripts, and words that only look Latin, in Latin letters."""
    text = "".join(letter for letter, _, _ in letters)
    if text.isascii():
        return letters
    words = [(match.span(), *_scripts(match.group())) for match in _WORD.finditer(text)]
    own = {next(iter(scripts)) for _, scripts, looks in words if len(scripts) == 1 and not looks}
    found = list(letters)
    for (start, end), scripts, _ in words:
        mixed = len(scripts) > 1 and "other" not in scripts
        if not mixed and (scripts <= own or scripts == {"latin"}):
            continue
        table = LOOSE if mixed else STRICT
        for i in range(start, end):
            letter, a, b = letters[i]
            found[i] = (table.get(letter, letter), a, b)
    return found


@lru_cache(CACHED)
def _scripts(word: str) -> tuple[frozenset[str], bool]:
    """The scripts of a word's letters, and whether all of them are letters of another script that look Latin."""
    letters = [letter for letter in word if letter.isalpha()]
    return frozenset(map(script, letters)), all(letter in STRICT for letter in letters)


def _spelt_out(letters: Letters) -> Letters:
    """Four letters or more, with the same short separator between each two, joined."""
    text = "".join(letter for letter, _, _ in letters)
    found: Letters = []
    end = 0
    for match in _SPELT.finditer(text):
        found += letters[end : match.start()]
        found += letters[match.start() : match.end() : 1 + len(match.group(1))]
        end = match.end()
    return found + letters[end:] if end else letters


def _views(text: str, folded: str, depth: int) -> Iterator[str]:
    if depth and (plain := _MARKUP.sub("", text)) != text:
        yield canonicalise(plain, 0).text
    if not text.isascii():
        if hidden := "".join(chr(ord(letter) - TAGS) for letter in text if 0x20 <= ord(letter) - TAGS < 0x7F):
            yield hidden.lower()
        if (read := folded.translate(TRANSLITERATED)) != folded:
            yield read
    if _LEET_PAIR.search(folded):
        for one in ("i", "l"):
            read = _LEET_WORD.sub(lambda match, one=one: _as_letters(match.group(), one), folded)
            if read != folded:
                yield read
    if depth:
        for run in _ENCODED.finditer(text):
            for decoded in _decoded(run.group()):
                inner = canonicalise(decoded, depth - 1)
                yield inner.text
                yield from inner.views


def _as_letters(word: str, one: str) -> str:
    """A word of letters and digits, its digits and signs read as letters."""
    mixed = any(letter.isalpha() for letter in word) and not word.isalpha()
    return word.replace("1", one).translate(_LEET) if mixed else word


def _decoded(run: str) -> Iterator[str]:
    """What a run says when it is read as base64 or as hexadecimal, where that is text."""
    run = run[: MOST * 4 // 3]
    attempts: list[bytes] = []
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", run):
        attempts.append(bytes.fromhex(run))
    elif len(run.rstrip("=")) % 4 != 1:
        plain = run.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            attempts.append(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True))
        except binascii.Error:
            return
    for raw in attempts:
        try:
            said = raw.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if sum(unicodedata.category(letter) != "Cc" or letter in "\n\t" for letter in said) >= 0.85 * len(
            said
        ):
            yield said
