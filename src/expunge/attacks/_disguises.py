"""Disguises by degree: what `_evasions` has and more, numbered as in the guards' specification, each on a share of what it can change.

A disguise of letters or words changes max(1, round(σ n)) of the n that it can change; others change the text as a whole, whatever σ. Some
come with a hint that tells a reader what to undo. `EVASIONS` itself, on which detectors are tested, stays as it is.
"""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

from expunge.attacks import _evasions as evasions
from expunge.attacks._evasions import EVASIONS, Evasion

STRENGTHS = (0.1, 0.3, 1.0)


class Disguise(NamedTuple):
    number: str
    """In the specification."""
    make: Callable[[str, random.Random, float], tuple[str, str]]
    """The text in disguise and a hint for whoever is to read it, empty where none is needed."""
    graded: bool
    """Whether the share makes a difference."""


DISGUISES: dict[str, Disguise] = {}
"""By name."""


# --- by degree --------------------------------------------------------------------------------------------------------
def share_of(able: Sequence[int], strength: float, rng: random.Random) -> set[int]:
    """Which places are changed: the share of them, one at least where there is any."""
    return set(rng.sample(able, min(len(able), max(1, round(strength * len(able))))))


def _letters(
    able: Callable[[str], bool], change: Evasion
) -> Callable[[str, random.Random, float], tuple[str, str]]:
    """Letter by letter, those that can be changed."""

    def make(text: str, rng: random.Random, strength: float) -> tuple[str, str]:
        chosen = share_of([i for i, letter in enumerate(text) if able(letter)], strength, rng)
        return "".join(change(letter, rng) if i in chosen else letter for i, letter in enumerate(text)), ""

    return make


def _long(word: str) -> bool:
    return sum(letter.isalpha() for letter in word) > 2


def _sounds(word: str) -> bool:
    """Whether the word has another spelling."""
    return any(old in word[1:] for old, _ in evasions.SOUNDS)


def _words(
    change: Evasion, able: Callable[[str], bool] = _long
) -> Callable[[str, random.Random, float], tuple[str, str]]:
    """Word by word, those that can be changed."""

    def make(text: str, rng: random.Random, strength: float) -> tuple[str, str]:
        words = text.split(" ")
        chosen = share_of([i for i, word in enumerate(words) if able(word)], strength, rng)
        return " ".join(change(word, rng) if i in chosen else word for i, word in enumerate(words)), ""

    return make


def _whole(change: Evasion, hint: str = "") -> Callable[[str, random.Random, float], tuple[str, str]]:
    return lambda text, rng, strength: (change(text, rng), hint)


def _swapped(letter: str, rng: random.Random) -> str:
    return letter.swapcase()


# --- those that are nowhere else --------------------------------------------------------------------------------------
MORSE = dict(
    zip(
        string.ascii_uppercase + string.digits,
        (
            ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
            "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
        ).split(),
        strict=True,
    )
)


def morse(text: str, rng: random.Random) -> str:
    """Letters as dots and dashes, a slash between words; what has no code is left as it is."""
    return " / ".join(" ".join(MORSE.get(letter, letter) for letter in word.upper()) for word in text.split())


def binary(text: str, rng: random.Random) -> str:
    """Every byte as eight bits."""
    return " ".join(f"{byte:08b}" for byte in text.encode())


def base32(text: str, rng: random.Random) -> str:
    """In base32."""
    return base64.b32encode(text.encode()).decode()


def shifted(text: str, by: int) -> str:
    """Letters of the Latin alphabet so many places further."""
    small, large = string.ascii_lowercase, string.ascii_uppercase
    return text.translate(str.maketrans(small + large, small[by:] + small[:by] + large[by:] + large[:by]))


def caesar(text: str, rng: random.Random, strength: float) -> tuple[str, str]:
    """Each letter the same number of places further, which is told."""
    by = rng.choice([k for k in range(1, 26) if k != 13])
    return shifted(text, by), f"in a Caesar cipher, each letter {by} places further in the alphabet"


def anagram(text: str, rng: random.Random) -> str:
    """The letters of each word in another order, where there is one."""
    return " ".join(_shuffled(word, rng) for word in text.split(" "))


def _shuffled(word: str, rng: random.Random) -> str:
    if len(set(word)) < 2:
        return word
    while (made := "".join(rng.sample(word, len(word)))) == word:
        pass
    return made


SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "[INST]", "</s>")


def smuggled(word: str, rng: random.Random) -> str:
    """A mark of chat templates within the word."""
    at = rng.randrange(1, len(word))
    return word[:at] + rng.choice(SPECIAL) + word[at:]


def commented(word: str, rng: random.Random) -> str:
    """A comment of a programming language within the word."""
    at = rng.randrange(1, len(word))
    return word[:at] + rng.choice(("/**/", "/* */", "<!---->", "{# #}")) + word[at:]


def switched(text: str, rng: random.Random) -> str:
    """Little words in another language."""
    from expunge.attacks._prompts import DICTIONARY

    which = rng.randrange(3)
    return " ".join(DICTIONARY.get(word.lower(), (word,) * 3)[which] for word in text.split(" "))


# --- all of them --------------------------------------------------------------------------------------------------------
for _number, _name, _make in (
    ("E1", "homoglyphs", _letters(lambda letter: letter in evasions.LOOKALIKES, evasions.homoglyphs)),
    ("E2", "zero width", _letters(str.isalnum, evasions.zero_width)),
    ("E3", "other invisible", _letters(str.isalnum, evasions.other_invisible)),
    ("E6", "full width", _letters(lambda letter: "!" <= letter <= "~", evasions.full_width)),
    (
        "E6",
        "mathematical",
        _letters(lambda letter: letter.isascii() and letter.isalpha(), evasions.mathematical),
    ),
    ("E7", "combining marks", _letters(str.isalpha, evasions.combining_marks)),
    ("E7", "accents", _letters(lambda letter: letter in "aeiouAEIOU", evasions.accents)),
    ("E8", "spaced", _words(evasions.spaced)),
    ("E8", "dotted", _words(evasions.dotted)),
    ("E9", "mixed case", _letters(str.isalpha, _swapped)),
    ("E9", "leet", _letters(lambda letter: letter.lower() in "aeiost", evasions.leet)),
    ("E10", "typo", _words(evasions.typo)),
    ("E11", "sounds alike", _words(evasions.sounds_alike, _sounds)),
    ("E17", "token smuggling", _words(smuggled)),
    ("E18", "comments", _words(commented)),
    ("E18", "markup", _words(evasions.markup)),
):
    DISGUISES[_name] = Disguise(_number, _make, graded=True)
for _number, _name, _change, _hint in (
    ("E4", "tag characters", EVASIONS["tag characters"], ""),
    ("E5", "right to left", EVASIONS["right to left"], ""),
    ("E8", "run together", EVASIONS["run together"], ""),
    ("E9", "capitals", EVASIONS["capitals"], ""),
    ("E12", "base64", EVASIONS["base64"], "in base64"),
    ("E12", "base32", base32, "in base32"),
    ("E12", "hexadecimal", EVASIONS["hexadecimal"], "as hexadecimal bytes"),
    ("E12", "percent code", EVASIONS["percent code"], "in percent encoding"),
    ("E12", "html entities", EVASIONS["html entities"], "as HTML entities"),
    ("E12", "json escapes", EVASIONS["json escapes"], "in escapes of JSON"),
    ("E12", "rot13", EVASIONS["rot13"], "in ROT13"),
    ("E12", "morse", morse, "in Morse code"),
    ("E12", "binary", binary, "in binary"),
    ("E13", "cyrillic", EVASIONS["cyrillic"], ""),
    ("E13", "code switch", switched, ""),
    ("E14", "backwards", EVASIONS["backwards"], "backwards"),
    ("E14", "anagram", anagram, "with the letters of each word out of order"),
):
    DISGUISES[_name] = Disguise(_number, _whole(_change, _hint), graded=False)
DISGUISES["caesar"] = Disguise("E12", caesar, graded=False)
