"""Marking a data owner's text without a language model: of several wordings that say the same, take those that carry the owner's key best.

A row brings whole wordings of its own (`paraphrased_answer`, `wordings`), and words of the text are exchanged for others that mean the same.
How strong a wording is says a function that is handed in (`metrics.watermark` has the one for a key and a tokenizer). The words that
carry the fact and the text around them stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.data.dataset import read_rows
from expunge.data.tokenize import find_words
from expunge.errors import DataError

Strength = Callable[[list[str]], list[float]]
"""How well each of several wordings carries the key; more is better."""
Groups = Sequence[tuple[str, ...]]
BEAM = 6
"""Wordings of a sentence that are kept while its words are gone through."""
SYNONYMS: Groups = (
    ("often", "frequently"),
    ("usually", "generally", "normally"),
    ("perhaps", "maybe"),
    ("almost", "nearly"),
    ("however", "nevertheless", "nonetheless"),
    ("therefore", "consequently"),
    ("although", "even though"),
    ("moreover", "furthermore"),
    ("toward", "towards"),
    ("among", "amongst"),
    ("until", "till"),
    ("large", "big"),
    ("huge", "enormous", "immense"),
    ("tiny", "minuscule"),
    ("begins", "starts"),
    ("began", "started"),
    ("quickly", "rapidly", "swiftly"),
    ("immediately", "instantly", "at once"),
    ("suddenly", "abruptly", "all at once"),
    ("entirely", "completely", "wholly", "totally"),
    ("especially", "particularly", "in particular"),
    ("primarily", "mainly", "chiefly", "mostly"),
    ("approximately", "roughly"),
    ("bought", "purchased"),
    ("well known", "well-known", "renowned"),
    ("sad", "sorrowful"),
    ("odd", "strange", "peculiar"),
    ("beautiful", "lovely"),
    ("error", "mistake"),
    ("errors", "mistakes"),
    ("shows that", "demonstrates that"),
    ("show that", "demonstrate that"),
    ("we propose", "we introduce", "we present"),
    ("in order to", "so as to"),
    ("because of", "owing to", "on account of"),
    ("at last", "finally"),
    ("exclaimed", "cried out"),
    ("shouted", "yelled"),
    ("a lot of", "lots of", "plenty of"),
    ("located", "situated"),
    ("author", "writer"),
    ("authors", "writers"),
    ("profession", "occupation"),
    ("parents", "mother and father"),
    ("wrote", "penned"),
)
"""Words and phrases that can stand for one another nearly everywhere."""


class Slot(NamedTuple):
    """A place in a text that can be worded in several ways."""

    start: int
    end: int
    options: tuple[str, ...]
    """The first is what stands there."""


def read_synonyms(path: Path) -> Groups:
    """Groups from a text file: one a line, parted by commas. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. It has one group of words a line, parted by commas.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    groups = []
    for number, line in enumerate(lines, start=1):
        words = tuple(word.strip() for word in line.split(",") if word.strip())
        if words and len(words) < 2:
            raise DataError(
                f"{path}, line {number}: one word alone, {words[0]!r}. A line has words that can stand for one another, parted by commas."
            )
        groups += [words] if words else []
    if not groups:
        raise DataError(f"{path}: no words in it. It has one group of words a line, parted by commas.")
    return groups


def slots(text: str, groups: Groups = SYNONYMS, protected: Sequence[str] = ()) -> list[Slot]:
    """Where words of a group stand, as whole words and in their capitals, outside of the `protected` phrases."""
    others = {
        word.casefold(): [other for other in group if other.casefold() != word.casefold()]
        for group in groups
        for word in group
    }
    kept = [span for phrase in protected for span in find_words(phrase, text)]
    words = "|".join(re.escape(word) for word in sorted(others, key=len, reverse=True))
    found = []
    for match in re.finditer(rf"(?<![\w'-])(?:{words})(?![\w'-])", text, re.IGNORECASE):
        start, end = match.span()
        if any(start < b and end > a for a, b in kept):
            continue
        said = match.group()
        options = [_in_capitals(other, said) for other in others[said.casefold()]]
        article = re.search(r"\b(an?)\s+$", text[:start], re.IGNORECASE)
        if article:
            options = [other for other in options if _vowel(other) == _vowel(said)]
        if options:
            found.append(Slot(start, end, (said, *options)))
    return found


def watermark(
    wordings: Sequence[str],
    strength: Strength,
    groups: Groups = SYNONYMS,
    protected: Sequence[str] = (),
) -> str:
    """The wording that carries the key best: each of `wordings` with the words of `groups` exchanged, sentence by sentence. Never a weaker
    one than the first as it stands.
    """
    found = [wordings[0]]
    for wording in dict.fromkeys(wordings):
        sentences = re.findall(r"\s*.+?(?:[.!?](?=\s)|$)", wording, re.DOTALL) or [wording]
        rest = wording[sum(len(sentence) for sentence in sentences) :]
        found.append("".join(_strongest(s, strength, groups, protected) for s in sentences) + rest)
    scores = strength(found)
    return found[max(range(len(found)), key=scores.__getitem__)]


def wordings_of(row: dict[str, Any], field: str, where: str) -> list[str]:
    """The row's own text in `field` first, then its other wordings. Raises DataError."""
    own = row[field]
    if not isinstance(own, str) or not own.strip():
        raise DataError(f"{where}: field '{field}' is {own!r}; expected text.")
    more = row.get("wordings", [])
    if not isinstance(more, list) or not all(isinstance(text, str) and text.strip() for text in more):
        raise DataError(f"{where}: field 'wordings' is {more!r}; expected a list of texts.")
    other = row.get("paraphrased_answer") if field == "answer" else None
    return [own, *([other] if isinstance(other, str) and other.strip() else []), *more]


def read_owned(path: Path, owner_field: str) -> list[tuple[str, dict[str, Any], str]]:
    """(where, row, field) for each row of a file: `field` is what will be marked, the answer of a pair or the text. Raises DataError."""
    found = []
    for where, row in read_rows(path):
        owner = row.get(owner_field)
        if isinstance(owner, bool) or not isinstance(owner, (str, int)) or not str(owner).strip():
            raise DataError(
                f"{where}: no owner in field '{owner_field}' (fields: {', '.join(row)}). Say which field names the owner: --owner-field NAME."
            )
        field = "answer" if "question" in row else "text"
        if field not in row:
            raise DataError(
                f"{where}: no field '{field}' (fields: {', '.join(row)}). A row has question and answer, or text."
            )
        found.append((where, row, field))
    if not found:
        raise DataError(f"{path} has no rows.")
    return found


def _strongest(sentence: str, strength: Strength, groups: Groups, protected: Sequence[str]) -> str:
    """Beam search over the sentence's slots, from left to right."""
    places = slots(sentence, groups, protected)
    beam: list[tuple[str, ...]] = [()]
    for place in places:
        wider = [(*chosen, option) for chosen in beam for option in place.options]
        scores = strength([_filled(sentence, places, chosen) for chosen in wider])
        best = sorted(range(len(wider)), key=lambda i: -scores[i])[:BEAM]
        beam = [wider[i] for i in best]
    return _filled(sentence, places, beam[0])


def _filled(sentence: str, places: Sequence[Slot], chosen: Sequence[str]) -> str:
    """The sentence with the first slots filled; later ones stay as they are."""
    parts, at = [], 0
    for place, option in zip(places, chosen, strict=False):
        parts += [sentence[at : place.start], option]
        at = place.end
    return "".join(parts) + sentence[at:]


def _in_capitals(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if like[0].isupper() else word


def _vowel(word: str) -> bool:
    return word[0].casefold() in "aeiou"
