"""Marking text by choosing among wordings: what may change, what may not, and that the best wording is found."""

import itertools
import json

import pytest

from expunge.data.watermarking import SYNONYMS, read_owned, read_synonyms, slots, watermark, wordings_of
from expunge.errors import DataError

GROUPS = [("big", "large"), ("often", "frequently", "mostly"), ("at once", "immediately"), ("odd", "strange")]


def options(text, **more):
    return [slot.options for slot in slots(text, GROUPS, **more)]


def test_words_are_found_whole_and_in_their_capitals():
    assert options("Often he saw a bigger dog, a big one.") == [
        ("Often", "Frequently", "Mostly"),
        ("big", "large"),
    ]
    assert options("They left AT ONCE.") == [("AT ONCE", "IMMEDIATELY")]
    assert options("a large-scale plan, often's") == []


def test_an_article_stays_right():
    assert options("It was an odd day.") == []
    assert options("It was odd.") == [("odd", "strange")]
    assert options("It was a big day.") == [("big", "large")]


def test_words_that_carry_the_fact_stay():
    assert options("Big Bend is big.", protected=["Big Bend"]) == [("big", "large")]


def test_no_word_of_the_built_in_list_stands_in_two_groups():
    words = [word for group in SYNONYMS for word in group]
    assert len(words) == len(set(words))
    assert all(len(group) >= 2 for group in SYNONYMS)


def test_the_strongest_of_all_wordings_is_found():
    text = "He was often at the big house. At once he felt odd."

    def additive(texts):
        """Every word has a value of its own, so going from left to right loses nothing."""
        return [sum(hash_of_word(word) for word in one.split()) for one in texts]

    def hash_of_word(word):
        return sum(map(ord, word)) * 31 % 97

    everything = [
        f"He was {a} at the {b} house. {c} he felt {d}."
        for a, b, c, d in itertools.product(
            ("often", "frequently", "mostly"),
            ("big", "large"),
            ("At once", "Immediately"),
            ("odd", "strange"),
        )
    ]
    found = watermark([text], additive, GROUPS)
    assert found in everything
    assert additive([found])[0] == max(additive(everything))


def test_the_result_is_never_weaker_than_the_text_as_it_stands():
    def strength(texts):
        return [sum(map(ord, one)) * 7919 % 1009 / 1009 for one in texts]

    for text in (
        "He was often at the big house. At once he felt odd.",
        "A big day. An odd night.",
        "Mostly big.",
    ):
        assert strength([watermark([text], strength, GROUPS)])[0] >= strength([text])[0]


def test_another_wording_wins_when_it_is_stronger():
    def strength(texts):
        return [float("born" not in one) for one in texts]

    assert (
        watermark(["He was born in Rome.", "Rome is his birthplace."], strength, GROUPS)
        == "Rome is his birthplace."
    )
    assert watermark(["Nothing to change."], strength, GROUPS) == "Nothing to change."


def test_spaces_between_sentences_stay():
    text = "  One thing. \n\n Two things!  Mr. X left  "
    assert watermark([text], lambda texts: [0.0] * len(texts), GROUPS) == text


def test_other_wordings_come_from_the_row():
    row = {"answer": "A.", "paraphrased_answer": "B.", "wordings": ["C."]}
    assert wordings_of(row, "answer", "here") == ["A.", "B.", "C."]
    assert wordings_of({"text": "A.", "paraphrased_answer": "B."}, "text", "here") == ["A."]
    with pytest.raises(DataError, match=r"here: field 'wordings' is 'C\.'"):
        wordings_of({"answer": "A.", "wordings": "C."}, "answer", "here")


def test_a_row_without_owner_or_text_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"owner": "x", "text": "a b"}) + "\n" + json.dumps({"text": "a b"}) + "\n")
    with pytest.raises(DataError, match=r"line 2: no owner in field 'owner'.*--owner-field"):
        read_owned(path, "owner")
    path.write_text(json.dumps({"owner": 0, "question": "a?"}))
    with pytest.raises(DataError, match="line 1: no field 'answer'"):
        read_owned(path, "owner")
    path.write_text("")
    with pytest.raises(DataError, match="no rows"):
        read_owned(path, "owner")


def test_synonyms_of_ones_own(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("big, large\n\nodd ,strange, peculiar\n")
    assert read_synonyms(path) == [("big", "large"), ("odd", "strange", "peculiar")]
    path.write_text("big\n")
    with pytest.raises(DataError, match="line 1: one word alone"):
        read_synonyms(path)
    path.write_bytes("café, coffee\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"words\.txt: not UTF-8 text \(byte 3\)"):
        read_synonyms(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no words"):
        read_synonyms(path)
