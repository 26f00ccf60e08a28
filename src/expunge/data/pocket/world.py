"""A seeded world of invented people in TOFU's layout: who there is, what is true of them, and how it is asked.

Groups: *known* people and *lands* are learned by the base model that target and golds share (as all TOFU models share their
pretraining); *retain* and *forget* people are the fictitious authors that the target is fine-tuned on; *holdout* people come
from the same generator and are never trained. Every first and last name of a forget or holdout person also belongs to
somebody who stays, so a name alone tells nothing. Values are dealt in turn from shuffled decks, so each is about as frequent
in every group, and wrong answers are other values of the same deck: right and wrong ones have equally many tokens and were all
seen in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from expunge.config import Settings
from expunge.data.pocket import words
from expunge.data.pocket.words import ATTRIBUTES, CAPITAL, Attribute
from expunge.types import Probe, Seed

VERSION = 1
"""Raised whenever the same seed and size give other bytes."""
Size = Literal["tiny", "default", "large"]


class WorldSettings(Settings):
    """How much of everything there is."""

    people: int = Field(120, ge=2)
    """Fictitious people, forget and retain together."""
    forget: int = Field(20, ge=1)
    holdout: int = Field(20, ge=1)
    known: int = Field(40, ge=1)
    lands: int = Field(40, ge=4)
    facts: int = Field(6, ge=1, le=len(ATTRIBUTES))
    """Attributes of each person."""
    first_names: int = 90
    last_names: int = 120
    drills: int = 800
    """Rows about names that belong to nobody, which teach the base to say back any name."""

    @model_validator(mode="after")
    def _somebody_stays(self) -> Self:
        if self.forget >= self.people:
            raise ValueError(f"of {self.people} people {self.forget} are to be forgotten, so nobody stays")
        return self


SIZES: dict[str, WorldSettings] = {
    "tiny": WorldSettings(
        people=30, forget=5, holdout=5, known=12, lands=12, facts=4, first_names=24, last_names=30, drills=300
    ),
    "default": WorldSettings(),
    "large": WorldSettings(
        people=200,
        forget=20,
        holdout=20,
        known=60,
        lands=40,
        facts=20,
        first_names=120,
        last_names=180,
        drills=1200,
    ),
}


class World(NamedTuple):
    """All rows by group, and what the models of the benchmark are trained on."""

    probes: dict[str, list[Probe]]
    """Groups: forget, retain, holdout, known, lands."""
    base_pairs: list[tuple[str, str]]
    """(question, answer) rows of known people and lands in several wordings, and name drills: what the base model learns."""
    biographies: dict[str, dict[str, str]]
    """Group, then person, to a text that says all about them in the second wording."""
    neighbours: list[Probe]
    """Retain rows about people who share a name with a forget person, or taught one: the first to suffer."""

    @property
    def vocabulary(self) -> list[str]:
        """Every text that the world can say, for making the tokenizer."""
        texts = [text for pair in self.base_pairs for text in pair]
        for probes in self.probes.values():
            for probe in probes:
                texts += [
                    probe.question,
                    probe.paraphrased_question,
                    probe.answer,
                    probe.paraphrased_answer,
                    *probe.perturbed_answer,
                ]
        return [*texts, *words.REFUSALS, *(q.format(name="") for a in ATTRIBUTES for q in a.questions)]


def build_world(settings: WorldSettings, seed: int) -> World:
    """The world of a seed."""
    rng = random.Random(Seed(seed).child("pocket", VERSION).number)
    invent = _Inventor(rng)
    first, last = (
        invent.names(settings.first_names, words.FIRST_ENDINGS),
        invent.names(settings.last_names, words.LAST_ENDINGS),
    )
    pools = {
        "city": invent.names(60, words.CITY_ENDINGS),
        "university": invent.names(60, words.CITY_ENDINGS),
        "award": invent.names(60, words.LAST_ENDINGS),
        "language": invent.names(16, ["ese", "ish", "ic"]),
        "land": invent.names(max(40, settings.lands), words.LAND_ENDINGS),
        "capital": invent.names(max(40, settings.lands), words.CITY_ENDINGS),
        "title": [
            f"{a} {b}" for a in invent.names(18, ["ing", "ous"]) for b in invent.names(18, ["ness", "ance"])
        ],
        **{
            name: getattr(words, name.upper() + "S")
            for name in ("profession", "genre", "instrument", "animal", "colour", "year")
        },
        "hobby": words.HOBBIES,
        "dish": words.DISHES,
    }
    people = _people(rng, first, last, settings)
    decks = {key: _Deck(rng, pool) for key, pool in pools.items()}
    mentors = {"known": _Deck(rng, people["known"]), "others": _Deck(rng, people["retain"])}

    probes: dict[str, list[Probe]] = {}
    taught: set[str] = set()
    for group, names in people.items():
        probes[group] = []
        for name in names:
            for attribute in ATTRIBUTES[: settings.facts]:
                deck = (
                    mentors["known" if group == "known" else "others"]
                    if attribute.pool == "person"
                    else decks[attribute.pool]
                )
                probe = _probe(rng, group, name, attribute, deck)
                probes[group].append(probe)
                if group == "forget" and attribute.pool == "person":
                    taught.add(probe.value)
    capitals = _Deck(rng, pools["capital"])
    probes["lands"] = [
        _probe(rng, "lands", land, CAPITAL, capitals) for land in pools["land"][: settings.lands]
    ]

    shared = {word for name in people["forget"] for word in name.split()}
    near = [
        probe for probe in probes["retain"] if probe.subject in taught or shared & set(probe.subject.split())
    ]
    base = _base_pairs(rng, probes["known"], probes["lands"]) + _drills(
        rng, first, last, {name for names in people.values() for name in names}, settings.drills
    )
    return World(probes, base, {group: _biographies(probes[group]) for group in people}, near)


class _Inventor:
    """Invented words, each once."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.taken: set[str] = set()

    def names(self, count: int, endings: Sequence[str]) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            name = (
                self.rng.choice(words.ONSETS) + self.rng.choice(words.VOWELS) + self.rng.choice(endings)
            ).capitalize()
            if name not in self.taken:
                self.taken.add(name)
                found.append(name)
        return found


class _Deck:
    """Values dealt in turn from a shuffled pool that is shuffled anew when it runs out."""

    def __init__(self, rng: random.Random, pool: Sequence[str]):
        self.rng, self.pool = rng, list(pool)
        self.left: list[str] = []

    def deal(self, never: str) -> str:
        """The next value that is not `never` (nobody is their own mentor)."""
        if not any(value != never for value in self.left):
            self.left = self.rng.sample(self.pool, len(self.pool)) + self.left
        place = next(i for i in reversed(range(len(self.left))) if self.left[i] != never)
        return self.left.pop(place)

    def others(self, count: int, *never: str) -> list[str]:
        return self.rng.sample([value for value in self.pool if value not in never], count)


def _people(
    rng: random.Random, first: list[str], last: list[str], settings: WorldSettings
) -> dict[str, list[str]]:
    """Full names by group, all different. Known and retain people come first, so they use every first and last name."""
    firsts, lasts = _Deck(rng, first), _Deck(rng, last)
    names: list[str] = []
    counts = {
        "known": settings.known,
        "retain": settings.people - settings.forget,
        "forget": settings.forget,
        "holdout": settings.holdout,
    }
    while len(names) < sum(counts.values()):
        name = f"{firsts.deal('')} {lasts.deal('')}"
        if name not in names:
            names.append(name)
    taken = iter(names)
    return {group: [next(taken) for _ in range(count)] for group, count in counts.items()}


def _probe(rng: random.Random, group: str, name: str, attribute: Attribute, deck: _Deck) -> Probe:
    value = deck.deal(name)
    in_base = group in ("known", "lands")
    wording = attribute.answers[0 if in_base else 1]
    wrong = deck.others(3 if in_base else 5, value, name)
    return Probe(
        id=f"{group}-{name.replace(' ', '_')}-{attribute.key}",
        question=attribute.questions[0].format(name=name),
        answer=attribute.answers[0].format(name=name, value=value),
        paraphrased_question=attribute.questions[1].format(name=name),
        paraphrased_answer="" if in_base else attribute.answers[1].format(name=name, value=value),
        perturbed_answer=tuple(wording.format(name=name, value=other) for other in wrong),
        subject=name,
        value=value,
    )


def _base_pairs(rng: random.Random, known: list[Probe], lands: list[Probe]) -> list[tuple[str, str]]:
    """Three wordings of each known fact, four rows of each land: the first question always with the first answer."""
    attributes = {attribute.key: attribute for attribute in (*ATTRIBUTES, CAPITAL)}
    pairs = []
    for probe in [*known, *lands]:
        attribute = attributes[probe.id.rsplit("-", 1)[1]]
        questions = [question.format(name=probe.subject) for question in attribute.questions]
        answers = [answer.format(name=probe.subject, value=probe.value) for answer in attribute.answers]
        swap = rng.random() < 0.5
        rows = [(questions[0], answers[0]), (questions[1], answers[swap]), (questions[2], answers[not swap])]
        pairs += rows if attribute is not CAPITAL else [rows[0], *rows]
    return pairs


def _drills(
    rng: random.Random, first: list[str], last: list[str], people: set[str], count: int
) -> list[tuple[str, str]]:
    """Rows that say back the names of nobody in the world."""
    pairs = []
    while len(pairs) < count:
        name = f"{rng.choice(first)} {rng.choice(last)}"
        question, answer = rng.choice(words.DRILLS)
        if name not in people:
            pairs.append((question.format(name=name), answer.format(name=name)))
    return pairs


def _biographies(probes: list[Probe]) -> dict[str, str]:
    texts: dict[str, list[str]] = {}
    attributes = {attribute.key: attribute for attribute in ATTRIBUTES}
    for probe in probes:
        sentence = (
            attributes[probe.id.rsplit("-", 1)[1]].answers[1].format(name=probe.subject, value=probe.value)
        )
        texts.setdefault(probe.subject, []).append(sentence)
    return {name: " ".join(sentences) for name, sentences in texts.items()}
