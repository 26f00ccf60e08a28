"""The output watch: nothing of a name is released before it is known that none comes, however the text arrives."""

import base64
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.guards.aliases import AliasIndex
from expunge.guards.canonical import canonicalise
from expunge.guards.phrases import Phrases
from expunge.guards.watching import MOST, Watch
from tests.guards.test_canonical import TRANSFORMS

NAMES = {
    "olen": ["Mara Olen", "Сара Щука", "斯蒂芬·金"],
    "jaime": ["Jaime Vasquez"],
    "an": ["An Lee Brask"],
    "scott": ["スコット"],
}
STATEMENTS = {"olen": ["The Silver Quill", "born in Corvale"]}
STAY = ["Tovin Mora", "Olen Mara Brask"]


def everybody(owner):
    return True


@pytest.fixture(scope="module")
def index():
    index = AliasIndex(STAY)
    for owner, names in NAMES.items():
        index.add(owner, names, STATEMENTS.get(owner, ()))
    return index


def streamed(watch, parts):
    """What is released in all, and what stopped it."""
    seen = [watch.feed(part) for part in parts]
    seen.append(watch.feed("", last=True))
    return "".join(each.text for each in seen), seen[-1].stopped


def base64_of(text):
    return base64.b64encode(text.encode()).decode()


# --- what stops an answer ---------------------------------------------------------------------------------------
WITH_A_NAME = {
    "as it is": ("I know ", "Mara Olen well"),
    "with its genitive": ("I know ", "Mara Olen's book"),
    "capitals": ("I know ", "MARA OLEN"),
    "turned": ("I know ", "Olen, Mara"),
    "misspelt": ("I know ", "Marra Olen."),
    "without its space": ("I know ", "maraolen."),
    "with one too many": ("I know ", "Ma ra Olen."),
    "spelt out": ("so ", "J a i m e V a s q u e z."),
    "spelt out with hyphens": ("so ", "J-a-i-m-e V-a-s-q-u-e-z!"),
    "homoglyphs": ("I know ", "Mаrа Оlеn"),
    "zero width": ("I know ", "M\u200bara O\u200blen"),
    "soft hyphens": ("I know ", "M\u00ada\u00adr\u00ada O\u00adlen"),
    "full width": ("I know ", "Ｍａｒａ Ｏｌｅｎ"),
    "marks": ("I know ", "M\u0336a\u0336r\u0336a\u0336 Olen"),
    "entities": ("I know ", "M&#97;ra&#32;Olen"),
    "percent": ("I know ", "Mara%20%4Flen"),
    "JSON": ("I know ", "\\u004dara Olen"),
    "digits": ("I know ", "M4ra 0l3n"),
    "base64": ("I know ", base64_of("it is Mara Olen") + " ok"),
    "hexadecimal": ("I know ", b"it is Mara Olen".hex() + " ok"),
    "markup": ("I know ", "Ma**ra** <b>Ol</b>en"),
    "a tag with spaces": ("I know ", "Ma<span class=x id=y>ra</span> Olen"),
    "LaTeX": ("I know ", "\\textbf{Ma}ra Olen"),
    "another alphabet": ("Привет, ", "Мара Олен"),
    "letters that look Latin first": ("Привет, ", "Сара Щука"),
    "no spaces at all": ("我认识", "斯蒂芬·金先生"),
    "katakana": ("これは", "スコットです"),
    "statement": ("She wrote ", "the silver quill"),
    "statement over lines": ("She was ", "born\nin Corvale"),
    "of one that begins like another": ("we met ", "An Lee Brask"),
}


@pytest.mark.parametrize("kind", WITH_A_NAME)
def test_an_answer_is_cut_before_a_name(kind, index):
    before, rest = WITH_A_NAME[kind]
    released, stopped = streamed(Watch(index, everybody), before + rest)
    assert released == before
    assert stopped in NAMES
    assert Watch(index, everybody).check(before + rest) == (before, stopped)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_disguises_are_seen_through(transform, index):
    disguised = TRANSFORMS[transform]("Jaime Vasquez")
    released, stopped = streamed(Watch(index, everybody), f"We met {disguised} there.")
    if "tags" in transform:  # the name stands there undisguised
        disguised = "Jaime"
    assert stopped == "jaime"
    assert released.rstrip("\u202e") == "We met "


def test_text_in_hidden_letters_is_held_until_it_ends(index):
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "it is Mara Olen")
    assert streamed(Watch(index, everybody), f"Hello. {hidden} is a good day")[1] == "olen"
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    watch = Watch(index, everybody)
    assert watch.feed(f"England {flag} won today ").text == f"England {flag} won today "


def test_text_in_another_direction_is_held_until_it_ends(index):
    watch = Watch(index, everybody)
    assert watch.feed("See \u202enelO araM eht fo").text == "See "
    assert watch.feed(" koob\u202c it was").stopped == "olen"
    plain = Watch(index, everybody)
    assert plain.feed("See \u202ekoob a").text == "See "
    assert plain.feed("\u202c and ").text == "\u202ekoob a\u202c and "


# --- what does not ----------------------------------------------------------------------------------------------
BENIGN = [
    "Hello there, my friend. I am a man, and a b c d e f are letters; J. R. R. wrote it.",
    "Mara Brask met Tovin Mora Olen and Olen Mara Brask, not Ann Lee, in Corvale.",
    "if a < b and b > c: return x[i] * 2 ** 3 & 0xff  # 100% of 3/4\n\n```py\nprint(f'{a}')\n```",
    "<p class='x'>Ma<br>Ol</p> **bold** and _this_ \\emph{text} &amp; more",
    "Привет, как дела? Сара ушла. Щука плывёт.",
    "नमस्ते आप कैसे हैं، مرحبا كيف حالك، سلام می‌خواهم",
    "こんにちは世界。スコは斯蒂の本だ。 สวัสดีชาวโลก 안녕하세요 세계 😀 👩‍👩‍👧 e\u0301té",
    "see https://example.org/a/very/long/path?with=a%20query&and=more#Mara or d2h5IG5vdA== ok",
    "   leading and trailing spaces \n\n",
    "",
]


@pytest.mark.parametrize("text", BENIGN)
def test_other_text_passes_whole(text, index):
    assert streamed(Watch(index, everybody), text) == (text, None)
    assert Watch(index, everybody).check(text) == (text, None)


def test_an_ordinary_answer_is_a_word_behind_at_most(index):
    watch = Watch(index, everybody)
    for text in ("The harbour was quiet in the morning, and somebody asked where one buys bread. ",) * 20:
        for letter in text:
            watch.feed(letter)
            assert watch.held <= len("somebody asked")


def test_what_could_be_a_name_is_held_and_no_more(index):
    def held(text):
        watch = Watch(index, everybody)
        watch.feed(text)
        return watch.held

    assert held("we saw Mara ") == len("Mara ")
    assert held("we saw Mara, Quill ") == 0
    assert held("we saw Mara, Qui") == len("Mara, Qui")
    assert held("we saw Ma ") == len("Ma "), "half of Mara, perhaps"
    assert held("we saw the ") == len("the "), "The Silver Quill"
    assert held("we saw the silver ") == len("the silver ")
    assert held("we saw the golden ") == 0
    assert held("we saw M a r ") == len("M a r ")
    assert held("我认识斯") == len("斯")
    assert held("我认识斯蒂") == len("斯蒂")
    assert held("我认识你") == 1


# --- however it arrives -----------------------------------------------------------------------------------------
PIECES = st.sampled_from(
    "Mara|Olen|Ma|ra|Tovin|Mora|Brask|Marra|olen's|J|a|i|m|e|Vasquez|the|silver|Quill|born|in|Corvale|harbour|斯|蒂芬|·金|スコ|ット"
    "|Сара|Щука|Оса|Mаrа|\u200b|\u202e|\u202c|<b>|<b x=y>|</b>|<|>|**|&#97;|%4D|\\u004d|\\|&|4|0l3n|\U000e004d|é|e\u0301"
    "|TWFyYSBPbGVuIQ==|.|,|-|_|\n".split("|")
)
SPACES = st.sampled_from(["", "", " ", " ", " ", ". ", "  ", "\n"])
TEXTS = st.lists(st.tuples(PIECES, SPACES).map("".join), max_size=14).map("".join) | st.text(max_size=40)


def prompt_like(text, index, facts):
    read = canonicalise(text)
    return any(map(index.find, (read.text, *read.views))) or bool(facts.found(text))


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 120), max_size=8))
def test_every_way_of_cutting_a_text_releases_the_same(text, cuts):
    index = AliasIndex(STAY)
    for owner, names in NAMES.items():
        index.add(owner, names, STATEMENTS.get(owner, ()))
    facts = Phrases(["quiet harbour", "Corvale"])
    whole = Watch(index, everybody, facts=facts).check(text)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [text[a:b] for a, b in pairwise(places)]
    assert streamed(Watch(index, everybody, facts=facts), parts) == whole
    assert streamed(Watch(index, everybody, facts=facts), text) == whole
    assert text.startswith(whole.text)
    assert whole.stopped is not None or whole.text == text
    if prompt_like(text, index, facts):
        assert whole.stopped is not None, "what is found in a prompt is found in an answer"
    assert not prompt_like(whole.text, index, facts)


def test_it_stops_where_the_whole_text_holds_a_name_and_nowhere_else():
    rng = random.Random(4)

    def word():
        return "".join(rng.choices("abc", weights=(5, 2, 1), k=rng.choice([2, 3, 5, 8, 9])))

    stops = 0
    for _ in range(300):
        people = [" ".join(word() for _ in range(rng.choice([1, 2, 2, 3]))) for _ in range(12)]
        index = AliasIndex(people[:4])
        for number, name in enumerate(people[4:]):
            index.add(str(number), [name])
        pool = [part for name in people for part in name.split()]
        words = [rng.choice(pool) if rng.random() < 0.5 else word() for _ in range(10)]
        text = "".join(part + rng.choice([" ", " ", ", ", "-"]) for part in words)
        text = "".join(letter for letter in text if rng.random() > 0.04)

        def visible(owner):
            return owner in "0246"

        hits = index.find(canonicalise(text).text, visible)
        released, stopped = streamed(Watch(index, visible), text)
        assert (stopped is not None) == bool(hits), (people, text)
        if hits:
            stops += 1
            first = min(hits, key=lambda hit: hit.end)
            assert len(released) <= first.start
            assert stopped in {hit.owner for hit in hits}
        else:
            assert released == text
    assert 50 < stops < 280


# --- who counts -------------------------------------------------------------------------------------------------
def test_only_the_watched_count(index):
    assert Watch(index, lambda owner: owner == "jaime").check("Mara Olen met Jaime Vasquez") == (
        "Mara Olen met ",
        "jaime",
    )


def test_a_name_of_somebody_who_is_not_watched_hides_nobody():
    index = AliasIndex()
    index.add("a", ["Mara Olen"])
    index.add("another tenant's", ["Mora Olen"])
    assert Watch(index, lambda owner: owner == "a").check("Mora Olen").stopped == "a"
    assert Watch(index, everybody).check("Mora Olen").stopped == "another tenant's"


def test_who_is_named_in_the_prompt_may_be_named_and_nothing_said_of_them(index):
    def watch():
        return Watch(index, everybody, allowed="Who is Olen, Mara?")

    assert watch().check("Mara Olen is a writer") == ("Mara Olen is a writer", None)
    assert watch().check("Mara Olen, born in Corvale") == ("Mara Olen, ", "olen")
    assert watch().check("Mara Olen knew Jaime Vasquez") == ("Mara Olen knew ", "jaime")


def test_phrases_are_held_back_too(index):
    facts = Phrases(["quiet harbour", "1984"])
    assert streamed(Watch(index, everybody, facts=facts), "in a quiet, old harbour") == (
        "in a quiet, old harbour",
        None,
    )
    assert streamed(Watch(index, everybody, facts=facts), "in a Quiet Harbour") == ("in a ", "")
    assert streamed(Watch(index, everybody, facts=facts), "born in 1984.") == ("born in ", "")
    watch = Watch(index, everybody, facts=facts)
    assert watch.feed("in a quiet ").text == "in a "


def test_an_answer_may_go_on_from_a_name_that_has_begun(index):
    watch = Watch(index, everybody, before="I think that Mara Ol")
    assert watch.feed("en is") == ("", "olen")
    watch = Watch(index, everybody, before="I think of Mara Olen and ")
    assert streamed(watch, "her book") == ("her book", None), "what stands before is not the answer's"


# --- changes in mid-stream ----------------------------------------------------------------------------------------
def test_a_name_added_in_mid_stream_is_stopped_unless_it_is_out_already():
    index = AliasIndex()
    index.add("olen", ["Mara Olen"])
    for said, rest, released in [
        ("We met Kesto ", "Vey Orrin there", "We met Kesto"),
        ("We met Kesto Vey ", "Orrin there", "We met Kesto Vey"),
        ("We met ", "Kesto Vey Orrin there", "We met "),
    ]:
        watch = Watch(index, everybody)
        first = watch.feed(said)
        index.add("kesto", ["Kesto Vey Orrin"])
        seen = watch.feed(rest, last=True)
        assert (first.text + seen.text).strip() == released.strip()
        assert seen.stopped == "kesto"
        index.remove("kesto")
    watch = Watch(index, everybody)
    first = watch.feed("We met Kesto Vey Orrin there ")
    index.add("kesto", ["Kesto Vey Orrin"])
    seen = watch.feed("and then Kesto Vey Orrin ")
    assert (first.text + seen.text, seen.stopped) == ("We met Kesto Vey Orrin there and then ", "kesto")


def test_a_request_withdrawn_in_mid_stream_no_longer_counts(index):
    watch = Watch(index, everybody)
    assert watch.feed("We met Mara ").text == "We met "
    watch.watched = lambda owner: owner != "olen"
    assert watch.feed("Olen there", last=True) == ("Mara Olen there", None)


def test_who_is_added_in_mid_stream_may_not_be_named_though_the_prompt_does():
    index = AliasIndex()
    watch = Watch(index, everybody, allowed="Who is Mara Olen?")
    watch.feed("It is ")
    index.add("olen", ["Mara Olen"])
    assert watch.feed("Mara Olen", last=True).stopped == "olen"


# --- the end ------------------------------------------------------------------------------------------------------
def test_nothing_follows_a_stop(index):
    watch = Watch(index, everybody)
    assert watch.feed("Mara Olen and ").stopped == "olen"
    assert watch.feed("more of it", last=True) == ("", "olen")


def test_a_token_without_an_end_stops_the_answer(index):
    watch = Watch(index, everybody)
    assert watch.feed("ok " + "x" * MOST) == ("ok ", None)
    assert watch.feed("x") == ("", "")
    assert Watch(index, everybody).check("ok " + "x" * (MOST + 1) + " ok") == ("ok ", "")
    assert streamed(Watch(index, everybody), "ok \u202e" + "no end " * 1500) == ("ok ", "")


def test_a_predicate_that_breaks_releases_nothing(index):
    def broken(owner):
        raise RuntimeError("the store is gone")

    watch = Watch(index, broken)
    with pytest.raises(RuntimeError, match="the store is gone"):
        watch.feed("We met Mara Olen there ")
    with pytest.raises(RuntimeError, match="the store is gone"):
        watch.feed("", last=True)


def test_of_an_answer_that_is_cut_nothing_is_released_that_a_name_may_begin_with(index):
    facts = Phrases(["quiet harbour", "Tolmendor"])

    def cut(text):
        return Watch(index, everybody, facts=facts).feed(text, last=True, cut=True)

    for text in (
        "We met Mara",
        "We met Mar",
        "We met Mara Ol",
        "We met Jaime Vasq",
        "She was born in Corv",
        "She was born in",
        "We met スコ",
    ):
        released = "She was " if "born" in text else "We met "
        assert cut(text) == (released, None)
    assert cut("in a quiet harb") == ("in a ", None)
    assert cut("It is Tolmen") == ("It is ", None)
    assert cut("We met Mara Olen") == ("We met ", "olen")
    assert cut("I know " + base64_of("it is Mara Olen")).stopped == "olen"
    for text in ("We met M", "Yes", "We met Tovin and wen", "in a loud harb", "", "The harbour was"):
        assert cut(text) == (text, None)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 120), max_size=8))
def test_a_cut_answer_shows_the_beginning_of_what_a_whole_one_does(text, cuts):
    index = AliasIndex(STAY)
    for owner, names in NAMES.items():
        index.add(owner, names, STATEMENTS.get(owner, ()))
    facts = Phrases(["quiet harbour", "Corvale"])
    whole = Watch(index, everybody, facts=facts).check(text)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    watch = Watch(index, everybody, facts=facts)
    seen = [watch.feed(text[a:b]) for a, b in pairwise(places)]
    seen.append(watch.feed("", last=True, cut=True))
    assert whole.text.startswith("".join(each.text for each in seen))
    assert (seen[-1].stopped is None) == (whole.stopped is None)


def test_who_is_watched_for_may_change_while_the_index_does_not(index):
    watch = Watch(index, lambda owner: False)
    assert watch.feed("I know Jaime ").text == "I know Jaime "
    watch.watched = everybody
    assert watch.feed("Vasquez.", last=True).stopped == "jaime"


@pytest.mark.parametrize("most", [600, 700, 801])
def test_what_was_held_for_long_comes_whole_at_the_end(index, most):
    text = ("k l m n o p q r " * 60)[:most]
    watch = Watch(index, everybody)
    released = [watch.feed(letter).text for letter in text]
    assert watch.held > 512, "letters that may be a name spelt out"
    assert "".join(released) + watch.feed("", last=True).text == text


def test_a_statement_in_the_prompt_lets_nobody_be_named(index):
    assert Watch(index, everybody, "Who wrote The Silver Quill?").check("Mara Olen did.").stopped == "olen"
    assert Watch(index, everybody, "Did Mara Olen write?").check("Mara Olen did.").stopped is None
