"""Ways to write a text so that people and models still read it and a filter may not: seeded, offline, one small function each.

Each takes the text (a name, or a whole prompt) and a source of chance, and returns it in disguise. They follow the list E1 to E14 and E18
of the guards' specification; none needs to know what the text means.
"""

from __future__ import annotations

import base64
import codecs
import random
import unicodedata
from collections.abc import Callable

Evasion = Callable[[str, random.Random], str]
EVASIONS: dict[str, Evasion] = {}
"""By name."""
EVERYWHERE: set[str] = set()
"""Names of those that are tried on the whole prompt, too."""


def _evasion(name: str, everywhere: bool = False) -> Callable[[Evasion], Evasion]:
    def add(disguise: Evasion) -> Evasion:
        EVASIONS[name] = disguise
        if everywhere:
            EVERYWHERE.add(name)
        return disguise

    return add


# --- spelling ---------------------------------------------------------------------------------------------------------
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    key: {row[i] for i in (at - 1, at + 1) if 0 <= i < len(row)}
    | {other[at] for other in (*KEYS[max(0, y - 1) : y], *KEYS[y + 1 : y + 2]) if at < len(other)}
    for y, row in enumerate(KEYS)
    for at, key in enumerate(row)
}
"""Keys beside each other on a keyboard."""


@_evasion("typo", everywhere=True)
def typo(text: str, rng: random.Random) -> str:
    """One slip of the hand in every fourth word (one at least): a letter left out, doubled, changed for its neighbour, or two swapped."""
    words = text.split(" ")
    able = _able(words)
    for i in rng.sample(able, min(len(able), max(1, len(able) // 4))):
        words[i] = _slip(words[i], rng)
    return " ".join(words)


@_evasion("two typos")
def two_typos(text: str, rng: random.Random) -> str:
    """Two slips of the hand, in two words; a single word has one."""
    words = text.split(" ")
    for i in rng.sample(able := _able(words), min(len(able), 2)):
        words[i] = _slip(words[i], rng)
    return " ".join(words)


def _able(words: list[str]) -> list[int]:
    """Which words are long enough for a slip."""
    return [i for i, word in enumerate(words) if sum(letter.isalpha() for letter in word) > 2]


def _slip(word: str, rng: random.Random) -> str:
    """One Damerau edit behind the first letter, which people rarely get wrong; never none."""
    places = [i for i, letter in enumerate(word) if i and letter.isalpha()]
    while True:
        i = rng.choice(places)
        letter, before, after = word[i], word[:i], word[i + 1 :]
        near = rng.choice(sorted(NEIGHBOURS.get(letter.lower(), "e")))
        slips = (
            before + after,
            before + letter + letter + after,
            before + near + after,
            before + after[:1] + letter + after[1:],
        )
        if (made := rng.choice(slips)) != word:
            return made


SOUNDS = (
    ("ph", "f"), ("ck", "k"), ("qu", "kw"), ("th", "t"), ("ae", "ai"), ("ie", "y"), ("oo", "u"), ("c", "k"), ("x", "ks"),
    ("z", "s"), ("v", "w"), ("y", "i"), ("i", "y"), ("k", "c"), ("s", "z"), ("f", "ph"), ("d", "dt"), ("n", "nn"), ("l", "ll"),
)  # fmt: skip


@_evasion("sounds alike")
def sounds_alike(text: str, rng: random.Random) -> str:
    """Another spelling of about the same sound in each word: Stephen King becomes Stefen Kyng."""
    words = []
    for word in text.split(" "):
        able = [(old, new) for old, new in SOUNDS if old in word[1:]]
        old, new = rng.choice(able[:3]) if able else ("", "")
        words.append(word[0] + word[1:].replace(old, new, 1) if able else word)
    return " ".join(words)


@_evasion("mixed case", everywhere=True)
def mixed_case(text: str, rng: random.Random) -> str:
    """Capitals and small letters in turn."""
    return "".join(letter.upper() if i % 2 else letter.lower() for i, letter in enumerate(text))


@_evasion("capitals", everywhere=True)
def capitals(text: str, rng: random.Random) -> str:
    """Capitals only."""
    return text.upper()


LEET = str.maketrans("aeiost", "431057")


@_evasion("leet", everywhere=True)
def leet(text: str, rng: random.Random) -> str:
    """Digits that look like letters."""
    return text.lower().translate(LEET)


@_evasion("spaced", everywhere=True)
def spaced(text: str, rng: random.Random) -> str:
    """A space between all letters, two between words."""
    return " ".join(text)


@_evasion("dotted")
def dotted(text: str, rng: random.Random) -> str:
    """The same mark between all letters of a word: M.a.r.a or M-a-r-a."""
    mark = rng.choice(".-_*|")
    return " ".join(mark.join(word) for word in text.split(" "))


@_evasion("run together")
def run_together(text: str, rng: random.Random) -> str:
    """No space between words."""
    return text.replace(" ", "")


@_evasion("backwards")
def backwards(text: str, rng: random.Random) -> str:
    """From the last letter to the first."""
    return text[::-1]


# --- characters -------------------------------------------------------------------------------------------------------
LOOKALIKES = {
    "a": "а", "c": "с", "e": "е", "i": "і", "j": "ј", "o": "оο", "p": "р", "s": "ѕ", "x": "х", "y": "у", "u": "υ", "v": "ν",
    "A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "H": "НΗ", "I": "ІΙ", "J": "Ј", "K": "КΚ", "M": "МΜ", "N": "Ν", "O": "ОΟ",
    "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "X": "ХΧ", "Y": "ҮΥ", "Z": "Ζ",
}  # fmt: skip
"""Cyrillic and Greek letters that look like Latin ones."""


@_evasion("homoglyphs", everywhere=True)
def homoglyphs(text: str, rng: random.Random) -> str:
    """Every letter that has a Cyrillic or Greek double is replaced by it."""
    return "".join(rng.choice(LOOKALIKES.get(letter, letter)) for letter in text)


@_evasion("one homoglyph")
def one_homoglyph(text: str, rng: random.Random) -> str:
    """A single letter is replaced by its double."""
    able = [i for i, letter in enumerate(text) if letter in LOOKALIKES]
    if not able:
        return text
    i = rng.choice(able)
    return text[:i] + rng.choice(LOOKALIKES[text[i]]) + text[i + 1 :]


ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
OTHER_INVISIBLE = "\u034f\ufe0f\u115f\u3164\u2800"
"""Not of the category of format characters, so a filter of that category leaves them in."""


@_evasion("zero width", everywhere=True)
def zero_width(text: str, rng: random.Random) -> str:
    """A character without width between all letters."""
    return "".join(letter + rng.choice(ZERO_WIDTH) for letter in text)


@_evasion("other invisible")
def other_invisible(text: str, rng: random.Random) -> str:
    """Fillers, a variation selector, a blank braille cell between all letters."""
    return "".join(letter + rng.choice(OTHER_INVISIBLE) for letter in text)


@_evasion("tag characters")
def tag_characters(text: str, rng: random.Random) -> str:
    """Written in tag characters, which are not drawn at all."""
    return "".join(chr(0xE0000 + ord(letter)) if letter.isascii() else letter for letter in text)


@_evasion("right to left")
def right_to_left(text: str, rng: random.Random) -> str:
    """Backwards between marks that make it read forwards."""
    return f"\u202e{text[::-1]}\u202c"


@_evasion("full width", everywhere=True)
def full_width(text: str, rng: random.Random) -> str:
    """The wide forms of ASCII."""
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


@_evasion("mathematical")
def mathematical(text: str, rng: random.Random) -> str:
    """Bold, script, or encircled letters of mathematics."""
    small, large = rng.choice([(0x1D41A, 0x1D400), (0x1D4EA, 0x1D4D0), (0x24D0, 0x24B6)])
    shifts = {"a": small - ord("a"), "A": large - ord("A")}
    return "".join(
        chr(ord(letter) + shifts["a" if letter.islower() else "A"])
        if letter.isascii() and letter.isalpha()
        else letter
        for letter in text
    )


MARKS = "\u0336\u0332\u0301\u0308\u0323"


@_evasion("combining marks")
def combining_marks(text: str, rng: random.Random) -> str:
    """The same stroke, line, accent or dot on every letter."""
    mark = rng.choice(MARKS)
    return "".join(letter + mark if letter.isalpha() else letter for letter in text)


@_evasion("accents")
def accents(text: str, rng: random.Random) -> str:
    """Accents that a language could have, on the vowels."""
    mark = rng.choice("\u0301\u0300\u0302\u0308")
    return unicodedata.normalize("NFC", "".join(c + mark if c in "aeiouAEIOU" else c for c in text))


# --- codes ------------------------------------------------------------------------------------------------------------
@_evasion("base64")
def base64_code(text: str, rng: random.Random) -> str:
    """In base64."""
    return base64.b64encode(text.encode()).decode()


@_evasion("hexadecimal")
def hex_code(text: str, rng: random.Random) -> str:
    """As hexadecimal bytes."""
    return text.encode().hex()


@_evasion("rot13")
def rot13(text: str, rng: random.Random) -> str:
    """Each letter thirteen further."""
    return codecs.encode(text, "rot13")


@_evasion("percent code")
def percent_code(text: str, rng: random.Random) -> str:
    """Every byte as in an address."""
    return "".join(f"%{byte:02X}" for byte in text.encode())


@_evasion("html entities")
def html_entities(text: str, rng: random.Random) -> str:
    """Every letter as a numbered HTML entity."""
    return "".join(f"&#{ord(letter)};" for letter in text)


@_evasion("json escapes")
def json_escapes(text: str, rng: random.Random) -> str:
    """Every letter as an escape of JSON."""
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


# --- other scripts and marks ------------------------------------------------------------------------------------------
CYRILLIC = (
    ("shch", "щ"), ("sch", "ш"), ("ae", "эй"), ("ch", "ч"), ("sh", "ш"), ("zh", "ж"), ("kh", "х"), ("th", "т"), ("ph", "ф"),
    ("ck", "к"), ("qu", "кв"), ("ya", "я"), ("yu", "ю"), ("yo", "ё"), ("ts", "ц"), ("oo", "у"), ("ee", "и"), ("a", "а"),
    ("b", "б"), ("c", "к"), ("d", "д"), ("e", "е"), ("f", "ф"), ("g", "г"), ("h", "х"), ("i", "и"), ("j", "дж"), ("k", "к"),
    ("l", "л"), ("m", "м"), ("n", "н"), ("o", "о"), ("p", "п"), ("q", "к"), ("r", "р"), ("s", "с"), ("t", "т"), ("u", "у"),
    ("v", "в"), ("w", "в"), ("x", "кс"), ("y", "й"), ("z", "з"),
)  # fmt: skip


@_evasion("cyrillic")
def cyrillic(text: str, rng: random.Random) -> str:
    """As a Russian would write it: Стивен Кинг."""
    said = text.lower()
    for latin, letters in CYRILLIC:
        said = said.replace(latin, letters)
    return said.title()


@_evasion("markup")
def markup(text: str, rng: random.Random) -> str:
    """Marks of Markdown, HTML or LaTeX inside the words; a reader does not see them."""
    marks = ("<!-- -->", "<b></b>", "**", '<span style="font-size:0">x</span>', r"\textbf{}")
    mark = rng.choice(marks)
    return " ".join(word[: len(word) // 2] + mark + word[len(word) // 2 :] for word in text.split(" "))


@_evasion("in pieces")
def quoted_code(text: str, rng: random.Random) -> str:
    """In parts that the reader has to put together: 'Mar' + 'a O' + 'len'."""
    cuts = sorted(rng.sample(range(1, len(text)), min(2, len(text) - 1)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return "(" + " + ".join(f"'{piece}'" for piece in pieces) + ")"
