"""Names, however they are written, and the words that carry the facts: DRAGON's name match (arXiv:2511.05784).

    score(x) = 1 - 0.1 · edits                      if a name or alias of the subject stands in x, with 0, 1 or 2 edits
             = 0.7                                  else if x holds a value of the subject that nothing retained mentions
             = 0.6                                  else if x holds two of its values that no retain subject has together
             = 0                                    else;     flagged from 0.5 on

A name may stand in another order, without its spaces, or misspelt (guards/aliases.py). People of the retain rows win where
their names fit better. Values are the `key` phrases of the forget rows, and answer the reverse question, which names nobody;
they count only where the text names nobody who stays. A value counts alone when it is written with a capital, as names of
places, prizes and works are; a value that others share says nothing alone.
Needs: names: a `subject` field in the forget rows, or rows that give nothing else. Values need `key` in them, and retain rows.
Differs from the paper: one part of DRAGON's detector, on its own; the values are ours.
Differs from the authors' code: code not read.
Fails when: the subject is translated, described by shared facts, or only half named. Somebody unknown whose name is one letter
away is flagged too; so is a common word one letter from a name of a single word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from expunge.errors import DataError
from expunge.guards.aliases import AliasIndex, Hit
from expunge.guards.canonical import canonicalise
from expunge.guards.detection import DetectorSettings

if TYPE_CHECKING:
    from expunge.data.dataset import Record
    from expunge.guards.guard import FitData, Place
    from expunge.types import LanguageModel

PER_EDIT, ALONE, TOGETHER = 0.1, 0.7, 0.6


class Aliases(DetectorSettings):
    needs: ClassVar = frozenset({"subject"})
    learns: ClassVar = False

    def fit(self, model: LanguageModel, data: FitData) -> FittedAliases:
        """Nothing is learned. Raises DataError without names."""
        if not data.names:
            raise DataError(
                "the aliases detector has no name to look for. Add a 'subject' (and 'aliases') to the forget rows."
            )
        known = [name for name in _names(data.retain) if name not in set(data.names)]
        values = _values(data.forget, {*data.names, *known}) if data.retain else {}
        alone, shared = _compare(values, data.retain)
        return FittedAliases(Watched(list(data.names), known, values, alone, shared))


@dataclass(frozen=True)
class Watched:
    names: list[str]
    known: list[str] = field(default_factory=list)
    """Of people who stay."""
    values: dict[str, list[str]] = field(default_factory=dict)
    """By subject."""
    alone: list[str] = field(default_factory=list)
    """Values that count by themselves."""
    shared: list[list[str]] = field(default_factory=list)
    """Pairs of one subject's values that a retain subject has too."""


class FittedAliases:
    def __init__(self, watched: Watched):
        self.watched = watched
        self.index = AliasIndex(watched.known)
        self.index.add("", watched.names)
        for subject, values in watched.values.items():
            self.index.add(subject, (), values)
        self.alone = frozenset(watched.alone)
        self.shared = frozenset(frozenset(pair) for pair in watched.shared)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._score(self.index.read(text)) for text in texts])

    def _score(self, hits: Sequence[Hit]) -> float:
        edits = [hit.distance for hit in hits if hit.kind == "name" and hit.owner is not None]
        if edits:
            return 1 - PER_EDIT * min(edits)
        if any(hit.owner is None for hit in hits):
            return 0.0
        found: dict[str | None, set[str]] = {}
        for hit in hits:
            if hit.kind == "value":
                found.setdefault(hit.owner, set()).add(hit.alias)
        if any(self.alone & values for values in found.values()):
            return ALONE
        pairs = (frozenset(pair) for values in found.values() for pair in combinations(values, 2))
        return TOGETHER if any(pair not in self.shared for pair in pairs) else 0.0

    def state(self) -> dict[str, Any]:
        return asdict(self.watched)

    @classmethod
    def from_state(cls, state: dict[str, Any], model: LanguageModel, place: Place) -> FittedAliases:
        return cls(Watched(**state))


def _names(rows: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in (row.subject, *row.aliases) if name))


def _values(rows: Iterable[Record], names: Set[str]) -> dict[str, list[str]]:
    """The key phrases of each subject's rows, but for people's names."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        values = {value: None for value in row.key if value not in names}
        found.setdefault(row.group or row.subject or row.id, {}).update(values)
    return {subject: list(values) for subject, values in found.items() if values}


def _compare(
    values: Mapping[str, Sequence[str]], retain: Sequence[Record]
) -> tuple[list[str], list[list[str]]]:
    """The values that count alone, and the pairs of one subject that somebody in the retain rows has too."""
    index = AliasIndex()
    for subject, phrases in values.items():
        index.add(subject, (), phrases)
    mentioned: dict[str, dict[str | None, set[str]]] = {}
    """By who stays, then by subject."""
    for row in retain:
        text = canonicalise("\n".join((row.question, row.answer, row.paraphrased_answer, row.text, *row.key)))
        theirs = mentioned.setdefault(row.group or row.subject or row.id, {})
        for hit in index.find(text.text):
            theirs.setdefault(hit.owner, set()).add(hit.alias)
    everywhere = {value for theirs in mentioned.values() for found in theirs.values() for value in found}
    alone = {value for phrases in values.values() for value in phrases} - everywhere
    shared = {
        pair
        for theirs in mentioned.values()
        for found in theirs.values()
        for pair in combinations(sorted(found), 2)
    }
    return sorted(value for value in alone if value != value.lower()), sorted(map(list, shared))
