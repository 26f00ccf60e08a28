"""Which attacks an audit tries: a suite's, or those that are named by number or name; and the list of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge import catalog
from expunge.attacks._attack import SUITES, OpeningAttack
from expunge.errors import ConfigError, did_you_mean
from expunge.run.auditing import Attack


def attack_names(suite: str = "full") -> list[str]:
    """The attacks of a suite by file name, in the order of the catalogue. Raises ConfigError for another word."""
    if suite not in SUITES:
        raise ConfigError(
            f"--suite {suite}: no such suite.{did_you_mean(suite, SUITES)} There are {', '.join(SUITES)}."
        )
    found = {name: catalog.load("attack", name) for name in catalog.entries("attack")}
    kept = [name for name, cls in found.items() if SUITES.index(cls.suite) <= SUITES.index(suite)]
    return sorted(kept, key=lambda name: _place(found[name].id))


def _place(number: str) -> tuple[bool, int, str]:
    """A00 to A30, then W1 to W12."""
    digits = "".join(letter for letter in number if letter.isdigit())
    return number[0] != "A", int(digits), number


def chosen(
    suite: str, only: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> dict[str, Attack]:
    """The attacks of a suite, or those that `only` names by number (A08 also means A08a and A08b) or name.

    `settings`: numbers of attacks, as {"relearning": {"steps": 50}}; where one attack alone is chosen, its numbers themselves.
    Raises ConfigError for an attack or a setting that there is not.
    """
    names = attack_names(suite if not only else "full")
    if only:
        names = [name for name in names if any(_meant(word, name) for word in only)]
        for word in only:
            if not any(_meant(word, name) for name in attack_names()):
                known = [*attack_names(), *(catalog.load("attack", name).id for name in attack_names())]
                raise ConfigError(
                    f"--only {word}: no such attack.{did_you_mean(word, known)} `expunge attack --list` shows all."
                )
    given = dict(settings or {})
    if len(names) == 1 and given and names[0] not in given:
        given = {names[0]: given}
    strange = [name for name in given if name not in names]
    if strange:
        raise ConfigError(
            f"--set {strange[0]}.…: no attack of that name is tried here.{did_you_mean(strange[0], names)}"
        )
    return {name: catalog.load("attack", name).parse(given.get(name, {}), f"attack {name}") for name in names}


def _meant(word: str, name: str) -> bool:
    """A name, a number, or what several numbers begin with where none is just that: A08 is A08a and A08b."""
    numbers = {other: catalog.load("attack", other).id.casefold() for other in catalog.entries("attack")}
    asked = word.strip().casefold()
    if asked in numbers.values():
        return numbers[name] == asked
    return asked in (name, name.replace("_", " "), name.replace("_", "-"), numbers[name].rstrip("abcdefgh"))


def listed() -> list[dict[str, Any]]:
    """Every attack as plain values, in the order of the catalogue."""
    found = []
    for name in attack_names():
        cls, entry = catalog.load("attack", name), catalog.entries("attack")[name]
        found.append(
            {
                "id": cls.id,
                "name": name,
                "tier": cls.tier,
                "suite": cls.suite,
                "kind": cls.kind,
                "needs": "weights" if issubclass(cls, OpeningAttack) else "answers",
                "rwku": getattr(cls, "rwku", ""),
                "summary": entry.summary,
                "paper": entry.paper,
            }
        )
    return found
