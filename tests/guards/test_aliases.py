"""Names of many owners: found as brute force finds them, gone without a trace, and nearest to whoever is meant."""

import copy
import json
import random
from dataclasses import replace

import pytest

from expunge.data.dataset import Record
from expunge.errors import DataError
from expunge.guards.aliases import WORD, AliasIndex, deletions, distance
from expunge.guards.canonical import canonicalise
from expunge.guards.detection import Detection
from expunge.guards.detectors.aliases import Aliases
from expunge.guards.guard import FitData
from tests.guards.cases import OTHERS, TARGETS, fit_data


# --- edits --------------------------------------------------------------------------------------------------------
def reference(a, b):
    """Damerau's distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    choices = [
        reference(a[1:], b) + 1,
        reference(a, b[1:]) + 1,
        reference(a[1:], b[1:]) + (a[0] != b[0]),
    ]
    if len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0]:
        choices.append(reference(a[2:], b[2:]) + 1)
    return min(choices)


def test_the_distance_is_damerau_s():
    rng = random.Random(0)
    pairs = [["".join(rng.choices("abc", k=rng.randrange(6))) for _ in range(2)] for _ in range(300)]
    assert [distance(a, b) for a, b in pairs] == [reference(a, b) for a, b in pairs]
    assert {distance(a, b) for a, b in pairs} >= {0, 1, 2, 3, 4}


def test_words_within_so_many_edits_share_a_word_after_so_many_deletions():
    rng = random.Random(1)
    for _ in range(2000):
        a, b = ("".join(rng.choices("ab", k=rng.randrange(8))) for _ in range(2))
        for edits in (1, 2):
            if distance(a, b) <= edits:
                assert deletions(a, edits) & deletions(b, edits)


# --- the index ----------------------------------------------------------------------------------------------------
def brute_force(aliases, text):
    """All windows of words against all aliases: (alias, start, end, distance), the distance word by word."""
    spans = [match.span() for match in WORD.finditer(text)]
    written = [text[a:b] for a, b in spans]
    best = {}
    for alias in aliases:
        given = alias.split()
        most = 2 if len(alias) >= 10 else 1 if len(alias) >= 6 else 0
        forms = [(["".join(given)], min(most, 1))]
        forms += [(given[i:] + given[:i], most) for i in range(len(given))]
        for words, edits in forms:
            for first in range(len(written)):
                for last in range(first, min(first + 2 * len(words), len(written))):
                    total = cheapest(written[first : last + 1], words)
                    if total is not None and total <= edits:
                        key = alias, spans[first][0], spans[last][1]
                        best[key] = min(total, best.get(key, 9))
    return {(*key, total) for key, total in best.items()}


def cheapest(written, words):
    """The fewest edits that make the written words these words; two written words may be one with a space in it."""
    if not written or not words:
        return None if written or words else 0
    costs = []
    edits = distance(written[0], words[0])
    if edits <= min(2, len(words[0]) // 4):
        costs.append((edits, cheapest(written[1:], words[1:])))
    if "".join(written[:2]) == words[0] and len(written) > 1:
        costs.append((1, cheapest(written[2:], words[1:])))
    return min((cost + rest for cost, rest in costs if rest is not None), default=None)


def test_it_finds_what_brute_force_finds():
    rng = random.Random(2)

    def word():
        return "".join(rng.choices("abc", weights=(5, 2, 1), k=rng.choice([2, 3, 4, 5, 8, 9])))

    distances = []
    for _ in range(30):
        aliases = [" ".join(word() for _ in range(rng.choice([1, 2, 2, 3]))) for _ in range(12)]
        index = AliasIndex()
        index.add("one owner, so that none beats another", aliases)
        pool = [w for alias in aliases for w in alias.split()]
        words = [rng.choice(pool) if rng.random() < 0.7 else word() for _ in range(25)]
        text = "".join(w + rng.choice([" ", " ", ", ", "-"]) for w in words)
        text = "".join(c for c in text if rng.random() > 0.04)
        expected = brute_force(aliases, text)
        assert {hit[1:5] for hit in index.find(text)} == expected
        distances += [total for *_, total in expected]
    assert {0, 1, 2} <= set(distances)


def test_removing_an_owner_leaves_no_trace():
    index = AliasIndex(known=["Mara Brask"])
    empty = copy.deepcopy(vars(index))
    index.add("a", ["Mara Olen", "M. Olen-Reed"], ["Port Corvale"])
    one = copy.deepcopy(vars(index))
    index.add("b", ["Mara Olen", "Mara Olenka", "Olen"], ["Corvale"])
    assert {hit.owner for hit in index.find("mara olen")} == {"a", "b"}
    index.remove("b")
    assert vars(index) == one
    assert {hit.owner for hit in index.find("mara olen")} == {"a"}
    index.remove("a")
    assert vars(index) == empty
    assert index.find("mara olen of port corvale") == []
    index.remove("nobody")


def test_adding_twice_is_adding_once():
    index, twice = AliasIndex(), AliasIndex()
    index.add("a", ["Mara Olen"])
    twice.add("a", ["Mara Olen"])
    twice.add("a", ["Mara Olen"])
    assert vars(index) == vars(twice)


@pytest.fixture
def index():
    index = AliasIndex()
    index.add("olen", ["Mara Olen"], ["Corvale", "the Silver Quill"])
    index.add("brien", ["Kesto O'Brien"])
    index.add("king", ["斯蒂芬", "スティーヴン・キング", "김철수"])
    return index


@pytest.mark.parametrize(
    ("text", "owner", "distance"),
    [
        ("who is mara olen?", "olen", 0),
        ("olen, mara: born where", "olen", 0),
        ("maraolen", "olen", 0),
        ("mara olen's book", "olen", 0),
        ("mara-olen", "olen", 0),
        ("mara ollen", "olen", 1),
        ("mraa olen", "olen", 1),
        ("ma ra olen", "olen", 1),
        ("maraolenn", "olen", 1),
        ("kesto obrien", "brien", 0),
        ("kesto o'brien's", "brien", 0),
        ("ketso o'brein", "brien", 2),
        ("谁是斯蒂芬金？", "king", 0),
        ("スティーヴン・キングはどこ", "king", 0),
        ("スティーブン・キングはどこ", "king", 1),
        ("김철수는 어디", "king", 0),
    ],
)
def test_one_name_in_many_forms(index, text, owner, distance):
    assert [(hit.owner, hit.distance, hit.kind) for hit in index.find(text)] == [(owner, distance, "name")]


@pytest.mark.parametrize(
    "text",
    [
        "mara brask and tovin olen",
        "mara vey olen",
        "tamara olenka",
        "marra ollen",  # two edits in nine letters
        "mora",
        "蒂芬斯",
        "corvales",  # values are taken as they are
        "",
    ],
)
def test_what_is_not_the_name(index, text):
    assert index.find(text) == []


def test_hits_say_where_and_what(index):
    text = "the silver quill went to mara olen"
    value, name = index.find(text)
    assert (text[value.start : value.end], value.kind, value.alias) == (
        "the silver quill",
        "value",
        "the Silver Quill",
    )
    assert (text[name.start : name.end], name.kind, name.alias) == ("mara olen", "name", "Mara Olen")


def test_whoever_fits_best_is_meant():
    index = AliasIndex(known=["Mira Olen", "Tovin Olen"])
    index.add("olen", ["Mara Olen"])
    assert index.find("mira olen") == []
    assert index.find("tovin olen, mara brask") == [], "another order of words, over somebody who stays"
    assert [hit.distance for hit in index.find("mora olen")] == [1], "as near to both: it fails closed"
    assert [hit.owner for hit in index.find("mara olen met mira olen")] == ["olen"]
    index.add("reed", ["Mora Olen"])
    assert [hit.owner for hit in index.find("mora olen")] == ["reed"], "owners are told apart too"


def test_half_a_name_that_stays_does_not_hide_the_whole():
    index = AliasIndex(known=["Olen", "Mara Olen"])
    index.add("olen", ["Mara Olen"])
    assert [hit.distance for hit in index.find("mara olen")] == [0], "a namesake who stays fits no better"
    assert [hit.distance for hit in index.find("marra olen")] == [1]


@pytest.mark.parametrize("text", ["Сара Оса", "Кто такая Сара Оса?", "Who is Сара Оса?"])
def test_a_name_whose_letters_look_latin_is_found_in_any_text(text):
    index = AliasIndex()
    index.add("a", ["Сара Оса"])
    assert [hit.owner for hit in index.find(canonicalise(text).text)] == ["a"]


def test_words_of_many_scripts_give_no_false_hits():
    index = AliasIndex()
    index.add("a", ["Mara Olen", "Potter", "Ann Lee"])
    benign = "Привет, как дела? नमस्ते आप कैसे हैं مرحبا كيف حالك こんにちは世界 สวัสดีชาวโลก 안녕하세요 세계 😀 any lee pot"
    assert index.find(benign.casefold()) == []
    assert WORD.findall("नमस्ते हैं") == ["नमस्ते", "हैं"], "vowel signs belong to their word"


# --- the detector -------------------------------------------------------------------------------------------------
def people(place, *names, kind="born in"):
    """Rows of people who share a place, or a place each."""
    return [
        Record(
            f"{name}-{kind}", f"Where was {name} {kind}?", f"In {at}.", subject=name, group=name, key=(at,)
        )
        for name, at in zip(names, place, strict=True)
    ]


FORGET = [
    *people(["Corvale", "Port Lume"], "Mara Olen", "Tovin Brask"),
    *people(["baker", "Orsk"], "Mara Olen", "Tovin Brask", kind="trained as"),
    *people(["Zembla", "Orsk"], "Mara Olen", "Tovin Brask", kind="buried in"),
]
RETAIN = [
    *people(["Corvale", "Corvale", "Orsk"], "Jola Reed", "Brin Vey", "Ulda Karst"),
    *people(["Port Lume", "Orsk", "Port Lume"], "Jola Reed", "Brin Vey", "Ulda Karst", kind="buried in"),
]


@pytest.fixture(scope="module")
def detection():
    data = fit_data(
        [row.question for row in FORGET], [row.question for row in RETAIN], ["Mara Olen", "Tovin Brask"]
    )
    return Detection.fit(Aliases(), None, replace(data, forget=FORGET, retain=RETAIN))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Who is MARA OLEN?", 1.0),
        ("Who is Olen, Mara?", 1.0),
        ("Who is Mara Ollen?", 0.9),
        ("Who is Tovyn Brassk?", 0.8),
        ("Who lies in Zembla?", 0.7),
        ("Who is a baker?", 0.0),  # retained by nobody, but an ordinary word
        ("Who was born in Corvale?", 0.0),  # shared by two who stay
        ("Who, a baker, was born in Corvale?", 0.6),  # together they mean one person
        ("Who left Port Lume for Orsk?", 0.0),  # so did Ulda Karst
        ("Did Jola Reed meet a baker in Corvale, or in Zembla?", 0.0),  # names somebody who stays
        ("Where was Jola Reed born?", 0.0),
        ("", 0.0),
    ],
)
def test_scores_by_name_and_by_facts(detection, text, score):
    assert detection.scores([text]).tolist() == [pytest.approx(score)]
    assert detection.flags([text]) == [score > 0.5]


def test_without_retain_rows_no_value_counts():
    data: FitData = replace(fit_data([], [], ["Mara Olen"]), forget=FORGET)
    found = Detection.fit(Aliases(), None, data)
    assert found.flags(["Who lies in Zembla?", "Who is Mara Olen?"]) == [False, True]


def test_the_state_is_plain_json_and_gives_the_detector_back(detection):
    again = Detection.from_state(json.loads(json.dumps(detection.state())), None, None)
    texts = ["Who is Mara Ollen?", "Who lies in Zembla?", "Who left Port Lume for Orsk?", "Brin Vey"]
    assert again.scores(texts).tolist() == detection.scores(texts).tolist()


def test_it_needs_names_and_finds_them_whole():
    with pytest.raises(DataError, match="has no name to look for"):
        Detection.fit(Aliases(), None, fit_data(names=[]))
    found = Detection.fit(Aliases(), None, fit_data([], [], ["Mara Olen"]))
    assert found.flags(["Who is mara olen?", "Who is Mara Brask?"]) == [True, False]


def test_no_namesake_of_two_targets_is_flagged():
    found = Detection.fit(Aliases(), None, fit_data())
    assert not any(found.flags([f"Where was {name} born?" for name in OTHERS]))
    assert all(found.flags([f"Where was {name} born?" for name in TARGETS]))
