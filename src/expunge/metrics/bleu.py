"""Sentence BLEU of short answers, as OFFSIDE takes it (Papineni et al., 2002; smoothing 1 of Chen and Cherry, 2014).

    p_n  = (n-grams of the answer that are in the reference, each counted at most as often as there) / (n-grams of the answer)
    p_n  = 0.1 / (n-grams of the answer)   where none is; an answer shorter than n counts one n-gram
    BLEU = min(1, exp(1 - reference words / answer words)) · ( p_1 · p_2 · p_3 · p_4 )^(1/4),   0 where no word is shared

Range [0, 1], higher is nearer to the reference. An answer of fewer than four words never reaches 1, however right it is: three right
words are 0.1^(1/4) = 0.56. Words are lower-cased and cut as the Penn Treebank does: punctuation apart, "player's" in two, a full stop
apart at a sentence's end, numbers whole. NLTK finds the sentences' ends by a trained model that has to be downloaded; here one ends
at . ? or ! before a space, unless the full stop belongs to an initial, to "u.s." or the like, or to one of a few abbreviations.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

VERSION = 1
ORDER = 4
EPSILON = 0.1
ABBREVIATIONS = frozenset("mr mrs ms dr st jr sr prof vs no approx etc".split())

_SENTENCE_END = re.compile(r"""(?<=[.?!])["'”’)\]]*\s+""")
_CONTRACTIONS = re.compile(r"\b(can)(not)\b|\b(gim|lem)(me)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b")
_TAIL = r"""[\])}>"'»”’ ]*$"""
_ALONE = r"""[\[\](){}<>"?!;@#$%&*«»“”„‘’\u2012-\u2015]"""
_CLITIC = r"(?:n't|'(?:s|m|d|ll|re|ve))(?!\w)"
_TOKEN = re.compile(
    rf"""\.{{2,}} | -- | '' | `+ | {_ALONE} | [:,](?!\d) | \.(?={_TAIL}) | {_CLITIC}
    | (?: (?!{_CLITIC} | \.{{2,}} | -- | {_ALONE} | \.{_TAIL} ) (?: [^\s:,'`] | [:,](?=\d) | (?<=\w)'(?=\w) ) )+ | '""",
    re.VERBOSE,
)


def words(text: str) -> list[str]:
    """Lower-cased words and marks, as the Penn Treebank cuts them."""
    found: list[str] = []
    for sentence in _sentences(text.lower()):
        parted = _CONTRACTIONS.sub(lambda match: " ".join(part for part in match.groups() if part), sentence)
        for match in _TOKEN.finditer(parted):
            before = parted[: match.start()]
            opens = not before or before[-1] in " ([{<"
            found.append(match[0] if match[0] != '"' else "``" if opens else "''")
    return found


def _sentences(text: str) -> list[str]:
    cuts = [0]
    for match in _SENTENCE_END.finditer(text):
        last = text[cuts[-1] : match.start()].rsplit(maxsplit=1)[-1]
        word = last.rstrip(".").lstrip("([\"'“‘")
        abbreviated = last.endswith(".") and (
            (len(word) == 1 and word.isalpha()) or "." in word or word in ABBREVIATIONS
        )
        if not abbreviated:
            cuts.append(match.end())
    return [text[a:b].strip() for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def bleu(generations: Sequence[str], references: Sequence[str]) -> list[float]:
    """Of each answer against its one reference."""
    pairs = zip(generations, references, strict=True)
    return [sentence_bleu(words(said), words(reference)) for said, reference in pairs]


def sentence_bleu(said: Sequence[str], reference: Sequence[str]) -> float:
    """Of words."""
    total = 0.0
    for n in range(1, ORDER + 1):
        ours, theirs = _ngrams(said, n), _ngrams(reference, n)
        shared = (ours & theirs).total()
        if n == 1 and not shared:
            return 0.0
        total += math.log((shared or EPSILON) / max(1, ours.total())) / ORDER
    return min(1.0, math.exp(1 - len(reference) / len(said))) * math.exp(total)


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
