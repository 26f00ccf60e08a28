"""One form for every way of writing a name; ordinary text in any script left alone; the way back to the original is right."""

import base64
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.guards.canonical import canonicalise

NAMES = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=4, max_size=9),
    min_size=1,
    max_size=3,
).map(" ".join)
HOMOGLYPHS = str.maketrans("aeiocpsxyABEKMHOPCTX", "аеіосрѕхуАВЕКМНОРСТХ")


def with_a_latin_letter(name):
    """Every word keeps one letter that has no double, so that the words mix scripts."""
    return " ".join(word[:1] + "q" + word[1:] for word in name.split())


TRANSFORMS = {
    "E1 homoglyph": lambda s: s.translate(HOMOGLYPHS),
    "E2 zero-width": lambda s: "\u200b".join(s).replace("\u200b \u200b", " "),
    "E2 soft hyphen and joiners": "\u00ad\u200d\u2060\ufeff".join,
    "E3 invisible letters and marks": lambda s: "".join(x + "\u034f\ufe0f\u3164\u2800" for x in s),
    "E4 tags": lambda s: s + "".join(chr(0xE0000 + ord(x)) for x in "hidden"),
    "E5 override": lambda s: "\u202e" + s[::-1] + "\u202c",
    "E6 full width": lambda s: "".join(chr(ord(x) + 0xFEE0) if x != " " else x for x in s),
    "E6 mathematical": lambda s: "".join(chr(0x1D400 + ord(x) - 65) if x.isupper() else chr(0x1D41A + ord(x) - 97) if x != " " else x for x in s),
    "E7 marks": lambda s: "".join(x + "\u0336" if x != " " else x for x in s),
    "E8 spaces": lambda s: "  ".join(" ".join(word) for word in s.split()),
    "E8 points": lambda s: " ".join(".".join(word) for word in s.split()),
    "E8 hyphens": lambda s: " ".join("-".join(word) for word in s.split()),
    "E9 case": str.swapcase,
}  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(name=NAMES)
def test_what_a_transform_does_to_a_name_is_undone(transform, name):
    name = with_a_latin_letter(name)
    found = canonicalise(TRANSFORMS[transform](name)).text
    assert found.split() == canonicalise(name).text.split()


@given(st.text(max_size=60))
def test_the_form_of_a_form_is_itself_and_never_three_times_as_long(text):
    once = canonicalise(text)
    assert len(once.text) <= 3 * max(len(text), 1)
    assert canonicalise(once.text).text == once.text


@given(st.text(max_size=40))
def test_every_character_knows_a_place_in_the_original(text):
    found = canonicalise(text)
    assert len(found.offsets) == len(found.text)
    assert all(0 <= a < b <= len(text) for a, b in found.offsets)


def test_the_way_back_covers_the_disguised_name_and_nothing_else():
    for disguised in (
        "M\u200ba\u200br\u200ba",
        "Ｍａｒａ",
        "Mаrа",
        "M-a-r-a",
        "%4Dara",
        "M̶a̶r̶a̶",
        "\\u004dara",
        "\u202earaM\u202c",
    ):
        text = f"Where was {disguised} born?"
        found = canonicalise(text)
        at = found.text.index("mara")
        a, b = found.original(at, at + 4)
        assert text[a:b].strip("\u202e\u202c") == disguised.strip("\u202e\u202c")


ORDINARY = [
    "Кто такой Лев Толстой, и где он родился?",
    "Το μήνυμα είναι σύντομο και σαφές.",
    "मैं कौन हूँ और कहाँ जाता हूँ",
    "من كتب هذا الكتابَ؟",
    "東京は日本の首都です。",
    "한국어로 물어봐도 될까요?",
    "👍🏽 Thanks! It costs 5 $ or 3 €.",
    "Où est né l'écrivain ? – À Besançon.",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_keeps_its_letters(text):
    """Marks are dropped from Latin, Greek and Cyrillic letters alone; nothing is turned into Latin."""
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
        if unicodedata.category(letter) not in ("Mn", "Me")
    )
    found = canonicalise(text).text
    bare = [
        x for x in unicodedata.normalize("NFD", found) if unicodedata.category(x) not in ("Mn", "Me", "Cf")
    ]
    assert bare == [x for x in plain if unicodedata.category(x) != "Cf"]
    if not any(script in text for script in ("मैं", "الكتاب")):
        return
    assert any(unicodedata.category(x) == "Mn" for x in unicodedata.normalize("NFD", found)), (
        "marks that carry vowels stay"
    )


def test_golden_forms():
    """specs: NFKC of the first; what NFKC leaves untouched is handled by the later steps."""
    assert canonicalise("ＳＫ ﬁ").text == "sk fi"
    assert unicodedata.normalize("NFKC", "е\u200b") == "е\u200b"
    assert canonicalise("Stеphеn").text == "stephen"
    assert [unicodedata.category(chr(x)) for x in (0x200B, 0xFEFF, 0x202E, 0xE0041)] == ["Cf"] * 4
    assert [unicodedata.category(chr(x)) for x in (0xFE0F, 0x034F)] == ["Mn"] * 2
    assert [unicodedata.category(chr(x)) for x in (0x3164, 0x115F)] == ["Lo"] * 2


def test_digits_read_as_letters_are_a_view_and_replace_nothing():
    found = canonicalise("5t3ph3n k1ng in 1984")
    assert found.text == "5t3ph3n k1ng in 1984"
    assert any("stephen king in 1984" in view for view in found.views)
    assert canonicalise("in the year 1984").views == ()


@pytest.mark.parametrize("encode", [
    lambda s: base64.b64encode(s.encode()).decode(),
    lambda s: s.encode().hex(),
    lambda s: base64.b64encode(base64.b64encode(s.encode())).decode(),
    lambda s: base64.b64encode("\u200b".join(s).encode()).decode(),
])  # fmt: skip
def test_an_encoded_name_is_read_in_a_view(encode):
    found = canonicalise(f"Who is {encode('Mara Olen of Corvale')}?")
    assert any("mara olen of corvale" in view for view in found.views)


def test_ordinary_long_words_make_no_views():
    assert canonicalise("internationalisation of incomprehensibilities").views == ()


@pytest.mark.parametrize(
    "text",
    [
        "Кто такой Мара Олен?",
        "Who is M**ara** <b>Ol</b>en?",
        "Who is \\textbf{Mara} `Olen`?",
        "Who is this?" + "".join(chr(0xE0000 + ord(x)) for x in "Mara Olen"),
    ],
)
def test_other_readings_are_views(text):
    assert any("mara olen" in view for view in canonicalise(text).views)


@pytest.mark.parametrize("text", ["％４Ｄara Olen", "%4\u200bDara Olen", "%0¼", "%4а"])
def test_an_escape_that_was_itself_in_disguise_is_decoded_too(text):
    found = canonicalise(text).text
    assert canonicalise(found).text == found
    if "ara" in text:
        assert found == "mara olen"
