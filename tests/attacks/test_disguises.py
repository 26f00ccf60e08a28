"""Disguises by degree, on the name and on the whole question."""

import base64
import random
import string
import unicodedata
from dataclasses import replace

import pytest

from expunge.attacks._disguises import DISGUISES, MORSE, STRENGTHS, shifted
from expunge.attacks._evasions import EVASIONS, LOOKALIKES
from expunge.attacks.obfuscation import NAMES, PROMPTS, Obfuscation
from tests.attacks.alone import direct_fails, excess, is_sound, made, variants_hit
from tests.attacks.leaky import CASES

BORN = CASES[0]
NAME = "Mara Stephen Olencroft"
LATIN = {double: letter for letter, doubles in LOOKALIKES.items() for double in doubles}


def disguised(name, text=NAME, strength=1.0, seed=0):
    return DISGUISES[name].make(text, random.Random(seed), strength)


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_changes_the_name_and_is_the_same_for_the_same_seed(name):
    if name == "code switch":
        assert disguised(name, "Where was the father born?")[0] != "Where was the father born?"
        return
    for strength in STRENGTHS:
        for seed in range(5):
            made, _ = disguised(name, NAME, strength, seed)
            assert made != NAME
            assert made == disguised(name, NAME, strength, seed)[0]


def test_every_kind_but_sound_and_those_of_turns_is_there_and_tried():
    kinds = {f"E{i}" for i in range(1, 19)} - {"E15", "E16"}
    assert {disguise.number for disguise in DISGUISES.values()} == kinds
    assert {DISGUISES[name].number for name in (*NAMES, *PROMPTS)} == kinds


CHANGED = {
    "homoglyphs": (lambda made: sum(c in LATIN for c in made), sum(c in LOOKALIKES for c in NAME)),
    "zero width": (lambda made: sum(unicodedata.category(c) == "Cf" for c in made), 20),
    "combining marks": (lambda made: sum(unicodedata.category(c) == "Mn" for c in made), 20),
    "full width": (lambda made: sum(ord(c) > 0xFF00 for c in made), 20),
    "mixed case": (lambda made: sum(a != b for a, b in zip(made, NAME, strict=True)), 20),
    "leet": (lambda made: sum(c.isdigit() for c in made), sum(c.lower() in "aeiost" for c in NAME)),
    "dotted": (lambda made: sum(not word.isalpha() for word in made.split(" ")), 3),
    "typo": (lambda made: sum(a != b for a, b in zip(made.split(" "), NAME.split(" "), strict=True)), 3),
    "token smuggling": (lambda made: sum(not word.isalpha() for word in made.split(" ")), 3),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_strength_is_the_share_of_what_can_be_changed(name):
    count, able = CHANGED[name]
    for strength in STRENGTHS:
        for seed in range(5):
            assert count(disguised(name, NAME, strength, seed)[0]) == max(1, round(strength * able))


def test_codes_and_orders_can_be_undone():
    assert base64.b32decode(disguised("base32")[0]).decode() == NAME
    assert bytes(int(byte, 2) for byte in disguised("binary")[0].split()).decode() == NAME
    letters = {code: letter for letter, code in MORSE.items()}
    words = disguised("morse")[0].split(" / ")
    assert " ".join("".join(letters[code] for code in word.split()) for word in words) == NAME.upper()
    assert len(set(MORSE.values())) == 36
    for seed in range(10):
        made, hint = disguised("caesar", seed=seed)
        by = next(int(word) for word in hint.split() if word.isdigit())
        assert by not in (0, 13)
        assert shifted(made, 26 - by) == NAME
        made, hint = disguised("anagram", seed=seed)
        assert [sorted(word) for word in made.split()] == [sorted(word) for word in NAME.split()]
        assert "out of order" in hint
    made, _ = disguised("homoglyphs")
    assert "".join(LATIN.get(letter, letter) for letter in made) == NAME


def test_the_known_letters_of_morse():
    assert (MORSE["S"], MORSE["O"], MORSE["Q"], MORSE["Z"]) == ("...", "---", "--.-", "--..")
    assert (MORSE["1"], MORSE["5"], MORSE["0"]) == (".----", ".....", "-----")
    assert shifted(string.ascii_lowercase, 3).startswith("def")


def test_what_detectors_are_tested_on_has_not_changed():
    assert len(EVASIONS) == 29
    assert not {"base32", "morse", "caesar", "anagram", "token smuggling", "code switch"} & set(EVASIONS)


def test_invisible_characters_outside_the_category_of_formats_stay_after_a_filter_of_it():
    made, _ = disguised("other invisible")
    assert "".join(c for c in made if unicodedata.category(c) != "Cf") == made


# --- the attack ---------------------------------------------------------------------------------------------------------
def looks_for_the_name(case, prompt):
    return case.name not in prompt.text


def test_disguised_names_pass_a_filter_of_names():
    hits = variants_hit(Obfuscation(), looks_for_the_name)
    names = {variant: rate for variant, rate in hits.items() if "whole prompt" not in variant}
    assert len(names) == 20
    assert names.pop("typo 0.3") > 0.8, "a last letter that is doubled leaves the name in it"
    assert names.pop("sounds alike 0.3") > 0.8
    assert set(names.values()) == {1.0}
    assert hits["base64, whole prompt"] == 1.0
    assert hits["code switch, whole prompt"] == 0.0, "the name is as it was"
    assert direct_fails(looks_for_the_name)


def test_there_are_25_trials_a_case_and_all_with_the_option():
    is_sound(Obfuscation(), CASES[:6])
    assert abs(excess(Obfuscation())) < 0.1
    assert all(23 <= len(made(Obfuscation(), case)) <= 25 for case in CASES)
    graded = sum(disguise.graded for disguise in DISGUISES.values())
    everything = 2 * (3 * graded + len(DISGUISES) - graded)
    assert everything - 3 <= len(made(Obfuscation(full=True), BORN)) <= everything
    is_sound(Obfuscation(full=True), CASES[:1])


def test_a_row_without_a_name_is_disguised_as_a_whole_only():
    variants = made(Obfuscation(), replace(BORN, name=""))
    assert variants
    assert all("whole prompt" in variant for variant in variants)


def test_only_the_name_changes_and_codes_come_with_a_hint():
    trials = made(Obfuscation(), BORN)
    for variant, trial in trials.items():
        if "whole prompt" not in variant:
            assert trial.prompt.text.startswith("Where was ")
            assert " born?" in trial.prompt.text
    assert trials["base64"].prompt.text.endswith(" born? (The name is written in base64.)")
    assert "It is written in base64: V2hl" in trials["base64, whole prompt"].prompt.text
