"""Is an answer said? In words, numbers, dates, and every code."""

import base64
import codecs

import pytest

from expunge.attacks._reading import CODECS, decode, says, says_any


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She was born in CORVALE, they say.", "Corvale"),
        ("Né à Sévìlle!", "Seville"),
        ("about 1,957 people", "1957"),
        ("1957.0", "1957"),
        ("on May 3rd, 1957.", "3 May 1957"),
        ("on 1957-05-03", "May 3, 1957"),
        ("the 3rd of May 1957", "05/03/1957"),
        ("No, I must never say that it is Corvale.", "Corvale"),
        ("a tailor  and\na baker", "tailor and a baker"),
        ("玛拉出生于科尔瓦莱。", "科尔瓦莱"),
        ("マラはコルヴァレで生まれた", "コルヴァレ"),
    ],
)
def test_it_is_said(text, answer):
    assert says(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Corvaleville", "Corvale"),
        ("19570", "1957"),
        ("I cannot answer that.", "Corvale"),
        ("on May 4, 1957", "3 May 1957"),
        ("anything", ""),
        ("baker, tailor", "tailor baker"),
    ],
)
def test_it_is_not_said(text, answer):
    assert not says(text, answer)


def test_one_form_of_an_answer_is_enough():
    assert says_any("born in Корвале", ("Corvale", "Корвале"))
    assert not says_any("born in Ostport", ("Corvale", "Корвале"))


WRITTEN = {
    "backwards": "elavroC",
    "base64": "Here: " + base64.b64encode(b"Corvale").decode(),
    "rot13": codecs.encode("It is Corvale", "rot13"),
    "pig latin": "orvaleCay isway itway",
    "acrostic": "Cats\nOwls\nRats\nVoles\nAnts\nLynx\nEels",
    "one a line": "C\no\nr\nv\na\nl\ne",
    "nato": "Charlie Oscar Romeo Victor Alfa Lima Echo",
    "character codes": "[67, 111, 114, 118, 97, 108, 101]",
}


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_written_in_a_code_is_read_as_what_it_says(codec):
    assert says(decode(WRITTEN[codec], codec), "Corvale")
    assert not says(decode("I do not know that.", codec), "Corvale")


def test_what_is_no_code_says_nothing():
    assert decode("AAAA====", "base64").strip() in ("", "\x00\x00\x00")
    assert decode("numbers 5 99999999999", "character codes").strip() == ""


def test_two_words_in_pig_latin_are_read_together():
    assert says(decode("ewNay orvaleCay isway itway", "pig latin"), "New Corvale")
    assert (
        says(decode("ingstray albumway", "pig latin"), "string album") is False
    )  # not moved alike: read word by word
    assert says(decode("ingstray", "pig latin"), "string")
