"""Where names stand in a text, and which tokens of written text belong to them."""

import re

import numpy as np
import pytest

from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames, WrittenNames
from expunge.types import Prompt

NAMES = TargetNames(["Mara Olen", "Jean de Brask"])


def test_whole_names_are_mentioned_and_halves_are_not():
    assert NAMES.mentions("Tell me where MARA  olen lives.")
    assert NAMES.mentions("jean de brask?")
    assert not NAMES.mentions("Mara Brask and Tovin Olen")


def test_spans_cover_every_word_of_a_name_but_not_its_particles():
    text = "Was Mara, or Olen, born where de Brask was? Marathon."
    assert [text[a:b] for a, b in NAMES.spans(text)] == ["Mara", "Olen", "Brask"]


def test_a_run_of_name_words_is_replaced_once():
    assert NAMES.replace("Where was Mara Olen born?", "somebody") == "Where was somebody born?"
    assert NAMES.replace("Mara met Brask.", "X") == "X met X."
    assert NAMES.replace("Nobody here.", "X") == "Nobody here."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Was ＭＡＲＡ here?", ["ＭＡＲＡ"]),
        ("Was Olen, Mara here?", ["Olen", "Mara"]),
        ("Is MaraOlen here?", ["MaraOlen"]),
        ("Is Mraa Olen here?", ["Mraa", "Olen"]),  # a short word with a typo, beside the rest of the name
        ("Is Mraa here?", []),  # and on its own
        ("Is Jaen de Bask here?", ["Jaen", "Bask"]),
        ("Ma ra Olen's", ["Ma", "ra", "Olen"]),
        ("Маrа Оlеn!", ["Маrа", "Оlеn"]),  # Cyrillic letters that look Latin
        ("Is M\u200bara Ol\u00aden here?", ["M\u200bara", "Ol\u00aden"]),
        ("Is M.a.r.a here?", ["M.a.r.a"]),
    ],
)
def test_spans_of_other_spellings_lie_in_the_text_as_it_was_written(text, found):
    assert [text[a:b] for a, b in NAMES.spans(text)] == found


def test_a_long_word_on_its_own_may_have_one_typo_and_a_short_one_none():
    names = TargetNames(["Kesto Sandor", "Ulda Alexandropoulos"])
    text = "Sandro, Sndor and Sandors, but no Sadnro of Ketso; alexandropuolos"
    assert [text[a:b] for a, b in names.spans(text)] == ["Sandro", "Sndor", "Sandors", "alexandropuolos"]
    assert names.spans("alxandropolous") == [], "two typos need the whole name"
    assert names.replace("Was Sandro of Ｓandor born?", "X") == "Was X of X born?"


def test_names_in_scripts_without_spaces_are_found_within_a_line():
    names = TargetNames(["斯蒂芬"])
    text = "谁是斯蒂芬？"
    assert "".join(text[a:b] for a, b in names.spans(text)) == "斯蒂芬"
    assert names.mentions(text)
    assert not names.mentions("谁是蒂芬？")


def test_whole_names_are_mentioned_in_other_spellings():
    assert NAMES.mentions("Was ＭＡＲＡ Ollen here?")
    assert NAMES.mentions("Olen, Mara")
    assert not NAMES.mentions("Mora Ollen")


@pytest.mark.parametrize(
    "text",
    ["Mara met Brask, de Olen.", "MARA-Olen's", "Who is nobody?", "", "jean_de Brask", "Marathon of olen"],
)
def test_plain_text_has_the_plain_words(text):
    plain = [m.span() for m in re.finditer(r"\w+", text) if m.group().casefold() in NAMES.words]
    assert NAMES.spans(text) == plain


@pytest.fixture
def written(tokenizer):
    return WrittenNames(NAMES, tokenizer)


def masked_text(written, tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    mask = written.mask(ids, 0)
    return tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]), ids, mask


def test_written_names_are_masked_whatever_pieces_they_come_in(written, tokenizer):
    """Whole where a name is one token; from its second letter on where it comes letter by letter."""
    assert masked_text(written, tokenizer, " Mara Olen was born in Corvale")[0] == " Mara Olen"
    found, ids, _ = masked_text(written, tokenizer, " MARA")
    assert len(ids) > 2
    assert found.strip() in ("MARA", "ARA")
    assert masked_text(written, tokenizer, " It is mara olen.")[0].replace(" ", "") in (
        "maraolen",
        "araolen",
        "aralen",
        "maralen",
    )


def test_text_without_names_is_left_alone(written, tokenizer):
    _, _, mask = masked_text(written, tokenizer, " the quick fox jumps over the lazy dog")
    assert not mask.any()


def test_the_rule_looks_back_only(written, tokenizer):
    """What has been decided about a token never changes when more is written: scoring and writing must agree."""
    ids = tokenizer(" Olen taught Mara Brask, and Mar was no Olenka; mara", add_special_tokens=False)[
        "input_ids"
    ]
    whole = written.mask(ids, 0)
    for end in range(1, len(ids) + 1):
        assert np.array_equal(written.mask(ids[:end], 0), whole[:end])
        assert np.array_equal(written.mask(ids[:end], end - 1), whole[end - 1 : end])


def test_a_verdict_on_a_token_holds_wherever_it_stands(written, tokenizer):
    ids = tokenizer(" Olen taught Mara Brask, and Mar was no Olenka; mara", add_special_tokens=False)[
        "input_ids"
    ]
    verdicts = [written.verdicts[i] for i in ids]
    decided = [(v, m) for v, m in zip(verdicts, written.mask(ids, 0), strict=True) if v is not None]
    assert all(verdict == masked for verdict, masked in decided)
    assert {True, False} <= {verdict for verdict, _ in decided}
    assert None in verdicts  # a letter may continue a name or not


@pytest.mark.parametrize("name", ["Mara Ollen", "Маrа Olеn", "ＭＡＲＡ Olen", "MaraOlen", "Olen, Mara"])
def test_eco_corrupts_every_token_of_a_name_in_another_spelling(lm, name):
    guard = FittedECO(ECO(), TargetNames(["Mara Olen"]), lm, 2.0, 0, [])
    (row,) = lm.encoder.prompts([Prompt.ask(f"Where was {name} born?")])
    place = row.text.index(name)
    mask = guard.prompt_mask(row)
    for (start, end), hit in zip(row.offsets, mask, strict=True):
        letters = row.text[max(start, place) : min(end, place + len(name))]
        assert hit == any(letter.isalnum() for letter in letters)
    assert mask.any()
    assert not mask.all()
