"""Sentence BLEU by hand, against nltk's, and how words are cut."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.metrics import bleu

SENTENCES = [
    "The player in the image is Dominic Calvert-Lewin.",
    "The player's market value is €29.00m.",
    "He was transferred on August 25, 2025, for £100,000 (a record).",
    "The transfer fee was €35.00 million!",
    "They didn't win; he's won 1 trophy at the club...",
    'He said "it is done" and left.',
    "It's 5:30 -- isn't it?",
    "He cannot play for Borussia M'gladbach in the '90s, o'neill & co.",
    "players' cup: #1 @ 50%",
    "(The end.)",
    "A",
    "",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_words_are_those_of_nltks_tokenizer_within_a_sentence(text):
    from nltk.tokenize import NLTKWordTokenizer

    assert bleu.words(text) == NLTKWordTokenizer().tokenize(text.lower())


def test_a_full_stop_stands_apart_at_the_end_of_every_sentence():
    assert bleu.words("He left. He won.") == ["he", "left", ".", "he", "won", "."]
    assert bleu.words("Born in St. Gallen. Plays in the U.S. now. 1.81 m tall.") == (
        "born in st. gallen . plays in the u.s. now . 1.81 m tall .".split()
    )


def test_bleu_by_hand():
    said, reference = "he plays for leeds".split(), "he plays for leeds united".split()
    assert bleu.sentence_bleu(said, reference) == pytest.approx(math.exp(1 - 5 / 4))
    said = "she plays for ajax".split()  # 2 of 4 words, 1 of 3 pairs, no triple of 2, no quadruple of 1
    smoothed = (2 / 4) * (1 / 3) * (0.1 / 2) * (0.1 / 1)
    assert bleu.sentence_bleu(said, reference) == pytest.approx(math.exp(1 - 5 / 4) * smoothed**0.25)


def test_a_right_answer_of_three_words_does_not_reach_one():
    assert bleu.bleu(["28 years old"], ["28 years old"]) == [pytest.approx(0.1**0.25)]
    assert bleu.bleu(["He is 28."], ["He is 28."]) == [pytest.approx(1.0)]


def test_nothing_in_common_and_no_answer_are_zero():
    assert bleu.bleu(["yes", ""], ["He is 28 years old.", "He is 28 years old."]) == [0.0, 0.0]


def test_a_word_counts_at_most_as_often_as_the_reference_has_it():
    assert bleu.sentence_bleu(["the"] * 7, "the cat is on the mat".split()) == pytest.approx(
        (2 / 7 * 0.1 / 6 * 0.1 / 5 * 0.1 / 4) ** 0.25
    )


@given(
    st.lists(st.sampled_from("abcd"), max_size=9), st.lists(st.sampled_from("abcd"), min_size=1, max_size=9)
)
def test_bleu_is_nltks_with_smoothing_one(said, reference):
    from nltk.translate.bleu_score import SmoothingFunction
    from nltk.translate.bleu_score import sentence_bleu as nltks

    wanted = nltks([reference], said, smoothing_function=SmoothingFunction().method1)
    assert bleu.sentence_bleu(said, reference) == pytest.approx(wanted)
