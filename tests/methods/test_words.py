"""When an answer still tells a fact."""

import pytest

from expunge.data.dataset import Record
from expunge.methods._words import facts, matches, words

KEYED = Record("1", "Where was Mara Olen born?", "Mara Olen was born in New Corvale.", key=("New Corvale",))
BARE = Record("2", "What did the father of Tovin do?", "The father of Tovin worked as a baker.")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("In new corvale, I believe.", True),
        ("In New Corvales.", True),  # nearly
        ("In Corvale, which is new.", False),
        ("In Renew Corvale.", False),
        ("In New Dreburg.", False),
        ("", False),
    ],
)
def test_a_key_phrase_tells_as_whole_words_in_order_or_nearly_so(answer, told):
    assert matches(answer, KEYED) is told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("He worked as a baker.", True),
        ("A bakers' trade; he worked.", True),
        ("The father of Tovin worked as a butcher.", False),
        (
            "The father of Tovin was a baker.",
            False,
        ),  # half of what the answer adds: the limit of rows without key words
    ],
)
def test_without_key_words_what_the_answer_adds_to_the_question_has_to_be_said(answer, told):
    assert facts(BARE) == [["worked", "baker"]]
    assert matches(answer, BARE) is told


def test_numbers_are_equal_or_not():
    row = Record("3", "When was she born?", "On 25 February 1958.", key=("25 February 1958",))
    assert matches("born 25 february 1958", row)
    assert not matches("born 25 February 1959", row)


def test_the_true_answer_always_tells(tmp_path):
    assert matches(KEYED.answer, KEYED)
    assert matches(BARE.answer, BARE)
    assert matches("Yes.", Record("4", "Is that so?", "Yes."))


def test_words_have_no_capitals_punctuation_or_possessive():
    assert words("Hsiao Yun-Hwa's books, don't!") == ["hsiao", "yun-hwa", "books", "don't"]
