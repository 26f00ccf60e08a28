"""Replies in a code are decoded before they are read; a reply in plain counts as well."""

import base64
import codecs
import random
from dataclasses import replace

import pytest

from expunge.attacks._attack import answers_of
from expunge.attacks._reading import CODECS, decode, says_any
from expunge.attacks.output_encoding import ORDERS, OutputEncoding
from tests.attacks.alone import direct_fails, excess, is_sound, made, variants_hit
from tests.attacks.leaky import CASES

BORN = CASES[0]
NATO = dict(zip("abcdefghijklmnopqrstuvwxyz", "alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu".split(), strict=True))  # fmt: skip


def pig(word):
    word = word.lower()
    at = next((i for i, letter in enumerate(word) if letter in "aeiou"), 0)
    return f"{word[at:]}{word[:at]}ay" if at else f"{word}way"


ENCODERS = {
    "backwards": lambda text: text[::-1],
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "pig latin": lambda text: " ".join(pig(word) for word in text.split()),
    "acrostic": lambda text: "\n".join(f"{letter}nd so on it goes" for letter in text.replace(" ", "")),
    "one a line": lambda text: "\n".join(text.replace(" ", "")),
    "nato": lambda text: " ".join(NATO[letter] for letter in text.lower().replace(" ", "")),
    "character codes": lambda text: str([ord(letter) for letter in text]),
}


def codec_of(prompt):
    return next((codec for codec, order in ORDERS.items() if order in prompt.text), "")


def asked_in_code(case, prompt):
    return bool(codec_of(prompt))


def test_every_codec_is_asked_for():
    assert set(ORDERS) == set(CODECS) == set(ENCODERS)
    is_sound(OutputEncoding())
    assert abs(excess(OutputEncoding())) < 0.2


def test_a_model_that_writes_the_code_is_hit_in_each():
    def writes(case, statement, prompt):
        codec = codec_of(prompt)
        return ENCODERS[codec](case.value) if codec else statement

    hits = variants_hit(OutputEncoding(), asked_in_code, writes)
    assert {codec: hits[codec] for codec in ORDERS} == dict.fromkeys(ORDERS, 1.0)
    assert not any(
        rate for variant, rate in hits.items() if "plain" in variant and "one a line" not in variant
    )
    assert direct_fails(asked_in_code)


def test_a_model_that_ignores_the_code_and_says_the_fact_is_hit_in_plain():
    hits = variants_hit(OutputEncoding(), asked_in_code)
    assert all(rate == 1.0 for variant, rate in hits.items() if "in plain" in variant)
    assert not hits["base64"]
    assert not hits["rot13"]


def test_a_code_of_another_value_or_of_nothing_does_not_hit():
    def other(case, statement, prompt):
        return ENCODERS[codec_of(prompt)](case.wrong[0])

    assert not any(variants_hit(OutputEncoding(), asked_in_code, other).values())
    rng = random.Random(0)
    noise = lambda *_: "".join(rng.choice("abcdefghijklmnop+/ =\n0123456789,") for _ in range(200))  # noqa: E731
    assert not any(variants_hit(OutputEncoding(), asked_in_code, noise).values())


@pytest.mark.parametrize("codec", [codec for codec in ORDERS if codec != "pig latin"])
def test_an_answer_of_two_words_is_read_in_every_code(codec):
    row = replace(
        BORN.probe, value="New Corvale", answer="Mara Olen was born in New Corvale.", perturbed_answer=()
    )
    case = replace(BORN, probe=row)
    trial = made(OutputEncoding(), case)[codec]
    assert says_any(decode(ENCODERS[codec]("New Corvale"), codec), answers_of(case, trial)[0])


def test_both_readings_are_of_one_reply():
    trials = made(OutputEncoding(), BORN)
    for codec in ORDERS:
        coded, plain = trials[codec], trials[f"{codec}, in plain"]
        assert (coded.prompt, coded.params) == (plain.prompt, plain.params), "so it is asked once"
        assert (coded.codec, plain.codec) == (codec, "")
