"""Letters of other scripts that look like Latin ones or are written with them, and which script a letter belongs to (after Unicode's UTS #39)."""

from bisect import bisect_right
from functools import lru_cache

_STRICT = {
    "cyrillic": ("АВЕЅІЈКМНОРСТХУԌҺԚԜаеѕіјорсухԁһԛԝӏ", "ABESIJKMHOPCTXYGHQWaesijopcyxdhqwl"),
    "greek": ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹϳοϲνιρα", "ABEZHIKMNOPTYXCjocvipa"),
    "armenian": ("օսոհցՍՕ", "ounhgUO"),
    "cherokee": ("ᎪᏴᏟᎠᎬᎻᎫᏦᏞᎷᏢᎡᏚᎢᏙᎳᏃ", "ABCDEHJKLMPRSTVWZ"),
}
_LOOSE = {
    "cyrillic": ("вгкмнптиь", "brkmhntub"),
    "greek": ("βγεηκμτυχω", "byenkutuxw"),
}
"""Likenesses that only count in words that mix scripts."""
STRICT = {a: b for letters, latin in _STRICT.values() for a, b in zip(letters, latin, strict=True)}
LOOSE = STRICT | {a: b for letters, latin in _LOOSE.values() for a, b in zip(letters, latin, strict=True)}
_SPELT = "a b v g d e zh z i i k l m n o p r s t u f kh ts ch sh shch".split()
TRANSLITERATED = str.maketrans(
    dict(zip("абвгдежзийклмнопрстуфхцчшщ", _SPELT, strict=True))
    | {
        "ъ": "",
        "ы": "y",
        "ь": "",
        "э": "e",
        "ю": "yu",
        "я": "ya",
        "ё": "e",
        "і": "i",
        "є": "ye",
        "ї": "yi",
        "ґ": "g",
    }
)
"""Russian and Ukrainian letters as passports write them."""
ODD_LATIN = str.maketrans("ıɑɡƖɩʏɴʀꜱ", "iagliynrs")

_STARTS, _SCRIPTS = zip(
    *sorted(
        [
            (0x41, "latin"), (0x250, "latin"), (0x2B0, ""), (0x370, "greek"), (0x400, "cyrillic"), (0x530, "armenian"),
            (0x590, "other"), (0x13A0, "cherokee"), (0x1400, "other"), (0x1C80, "cyrillic"), (0x1C90, "other"),
            (0x1D00, "latin"), (0x1DC0, ""), (0x1E00, "latin"), (0x1F00, "greek"), (0x2000, ""), (0x2C60, "latin"),
            (0x2C80, "other"), (0x2DE0, "cyrillic"), (0x2E00, ""), (0x2E80, "other"), (0xA640, "cyrillic"),
            (0xA6A0, "other"), (0xA720, "latin"), (0xA800, "other"), (0xAB30, "latin"), (0xAB70, "cherokee"),
            (0xABC0, "other"),
        ]
    ),
    strict=True,
)  # fmt: skip


@lru_cache(1 << 16)
def script(letter: str) -> str:
    """latin, greek, cyrillic, armenian, cherokee, other; "" for what is no letter."""
    if not letter.isalpha():
        return ""
    return _SCRIPTS[bisect_right(_STARTS, ord(letter)) - 1]
