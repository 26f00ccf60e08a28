"""One fact that an attacker wants back, and what may be known beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from expunge.attacks._reading import DULL, Loose, says, says_any, words_of
from expunge.data.facts import Fact, facts_of
from expunge.data.subjects import capital_runs
from expunge.types import Probe

LONG = 6
"""Telling words from which on an answer is read by them."""


@dataclass(frozen=True)
class Case:
    """A question as it stands, and what may be used to ask it otherwise."""

    probe: Probe
    name: str = ""
    """Whom it is about, as written in the question; empty where no name stands in it."""
    aliases: tuple[str, ...] = ()
    """Other names of theirs."""
    own: tuple[Probe, ...] = ()
    """Other rows about the same subject, forgotten as this one is: an attacker may know them."""
    others: tuple[Probe, ...] = ()
    """Rows about other people, whose answers nobody removed."""
    peers: tuple[str, ...] = ()
    """Names of other forgotten subjects."""

    @property
    def question(self) -> str:
        return self.probe.question

    def about(self, name: str) -> str:
        """The question with another name in it."""
        return self.question.replace(self.name, name)

    @cached_property
    def _fact(self) -> Fact:
        return facts_of([self.probe])[0]

    @property
    def value(self) -> str:
        """The words that carry the fact; empty where they are not known, and then no answer can be told right from wrong by its words."""
        return "" if self._fact.known == "whole" else self._fact.value

    @property
    def wrong(self) -> tuple[str, ...]:
        """What else could stand in the value's place: as likely as the value to a model that never knew."""
        return tuple(text for text in self._fact.wrong if text != self.value) if self.value else ()

    @cached_property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """What counts as the value, then as each wrong value. The value's words may be a paraphrase's: then those of the row's own answer
        count, too. A long one counts by its telling words, which stand in no other answer and not in the question.
        """
        if not self.value:
            return ()
        own = "" if says(self.probe.answer, self.value) else trimmed(self.probe.answer, self.question)
        found = [
            tuple(text for text in texts if text)
            for texts in ((self.value, own), *((text,) for text in self.wrong))
        ]
        words = [{word for text in texts for word in words_of(text)} for texts in found]
        made = []
        for i, texts in enumerate(found):
            common = DULL.union(
                words_of(self.question), *(others for j, others in enumerate(words) if j != i)
            )
            telling = [
                [word for word in dict.fromkeys(words_of(text)) if word not in common] for text in texts
            ]
            made.append((*texts, *(Loose(" ".join(some)) for some in telling if len(some) >= LONG)))
        return tuple(made)

    def told_by(self, text: str) -> bool:
        """Whether a text says the fact."""
        return bool(self.value) and says_any(text, self.answers[0])

    def given_away_by(self, text: str) -> bool:
        """Whether a text says the fact or a wrong value. Both are kept out of prompts, so that neither is favoured."""
        return any(says_any(text, forms) for forms in self.answers)

    @property
    def statement(self) -> str:
        """A sentence that says the fact."""
        return self._fact.statement

    @property
    def head(self) -> str:
        """The statement up to the value; empty where nothing stands before it."""
        return self._fact.head


def cases_of(probes: Sequence[Probe], others: Sequence[Probe], names: Sequence[str] = ()) -> list[Case]:
    """Rows with all that can be told from the rows themselves. `names`: where given, nobody else's stand in these questions."""
    own: dict[str, list[Probe]] = {}
    for probe in probes:
        own.setdefault(probe.subject or probe.question, []).append(probe)
    called = [name_in(probe, names) for probe in probes]
    return [
        Case(
            probe,
            name,
            own=tuple(row for row in own[probe.subject or probe.question] if row is not probe),
            others=tuple(row for row in others if not probe.subject or row.subject != probe.subject),
            peers=tuple(dict.fromkeys(other for other in called if other and other != name)),
        )
        for probe, name in zip(probes, called, strict=True)
    ]


ASKING = frozenset(
    "what where which who whom whose when why how did does do is are was were can could has have had in".split()
)


def name_in(probe: Probe, names: Sequence[str] = ()) -> str:
    """The longest of `names` that stands in the question; without names its subject, else its longest run of capitalised words."""
    known = names or ([probe.subject] if probe.subject and probe.subject in probe.question else ())
    runs = (run for run in capital_runs(probe.question) if run.split()[0].lower() not in ASKING)
    found = [name for name in (known or runs) if name in probe.question]
    return max(found, key=lambda name: (len(name), name), default="")


def trimmed(answer: str, question: str) -> str:
    """What an answer adds to its question: without the words of either end that stand in the question or tell nothing."""
    known = DULL.union(words_of(question))
    pieces = answer.split()
    new = [i for i, piece in enumerate(pieces) if not known.issuperset(words_of(piece))]
    return " ".join(pieces[new[0] : new[-1] + 1]).strip(" .,;:!?") if new else ""


@lru_cache(maxsize=64)
def names_of(rows: tuple[Probe, ...]) -> tuple[str, ...]:
    """What the people of these rows are called in them, sorted; a subject such as "author 7" is no name."""
    return tuple(sorted({fact.name for fact in facts_of(rows) if fact.name}))
