"""Which phrases are forbidden, and that looking them up word by word finds exactly what a search of the whole text finds."""

import random
import re
from itertools import pairwise

import pytest

from expunge.data.dataset import Record
from expunge.guards.canonical import canonicalise
from expunge.guards.phrases import Background, Phrases, phrases_of
from expunge.guards.written_phrases import Vocabulary, WrittenPhrases

RETAIN = [
    f"{name} was born in {town} and worked as a {job}."
    for name, town, job in zip(
        ["Jola Reed", "Brin Vey", "Kesto Karst", "Ulda Olen", "Mara Reed"] * 4,
        [f"Town{i}" for i in range(20)],
        ["baker", "mason", "pilot", "clerk", "potter"] * 4,
        strict=True,
    )
]
BACKGROUND = Background(RETAIN)


def row(question, answer, **more):
    return Record("f", question=question, answer=answer, **more)


def brute_force(phrases, text):
    """Whether any phrase stands in canonical text with no letter or digit on either side."""
    gap, edge = r"[\W_]+", r"[^\W_]"
    return any(
        re.search(rf"(?<!{edge}){gap.join(map(re.escape, phrase.split()))}(?!{edge})", text)
        for phrase in phrases
    )


WORDS = ["ab", "ba", "aab", "bb"]
"""Of two letters or more: single ones in a row are read as one word spelt out."""


def test_the_automaton_finds_what_brute_force_finds_however_the_text_is_cut(tokenizer):
    rng = random.Random(0)
    seen = {True: 0, False: 0}
    for _ in range(2000):
        forbidden = {" ".join(rng.choices(WORDS, k=rng.randint(1, 3))) for _ in range(3)}
        phrases = Phrases(forbidden)
        watch = WrittenPhrases(phrases, Vocabulary(tokenizer))
        text = "".join(rng.choice(WORDS) + rng.choice(["", " ", "-", ". "]) for _ in range(rng.randint(1, 6)))
        assert bool(phrases.matches(text)) == brute_force(forbidden, text)
        cuts = sorted({0, len(text), *(rng.randint(0, len(text)) for _ in range(4))})
        state, hit = watch.start(""), False
        for start, end in pairwise(cuts):
            hit = hit or watch.completes(state, text[start:end])
            assert hit == any(brute_force(forbidden, text[:cut]) for cut in cuts if cut <= end)
            state = watch.after(state, text[start:end])
        seen[hit] += 1
    assert min(seen.values()) > 200, "only one of the two answers was ever given"


@pytest.mark.parametrize("before", ["", "Mara", "Mara ", "she is Mara O", "the qui", "Corv", "x Cor", "lazy"])
def test_the_tokens_that_are_blocked_are_all_those_whose_text_completes_a_phrase(before, tokenizer):
    forbidden = ["mara olen", "quick", "a", "corvale", "lazy dog"]
    watch = WrittenPhrases(Phrases(forbidden), Vocabulary(tokenizer))
    state = watch.start(before)
    pieces = watch.vocabulary.pieces
    expected = [
        i
        for i, piece in enumerate(pieces)
        if piece and re.search(r"[^\W_]", piece) and brute_force(forbidden, before.casefold() + piece)
        and not brute_force(forbidden, before.casefold())
    ]  # fmt: skip
    assert watch.completing(state) == expected
    assert expected


def test_states_with_the_same_key_block_the_same_tokens(tokenizer):
    watch = WrittenPhrases(Phrases(["mara olen", "corvale"]), Vocabulary(tokenizer))
    by_key = {}
    for text in [
        "",
        "zzz",
        "born",
        "Mara",
        "mara zzz",
        "mara born",
        "Cor",
        "zzz Cor",
        "mar",
        "corvales",
        "Mara Ol",
    ]:
        state = watch.start(text)
        by_key.setdefault(watch.key(state), []).append(watch.completing(state))
    assert len(by_key) < 11
    assert all(found[0] == other for found in by_key.values() for other in found)


@pytest.mark.parametrize("text", ["born in Paris", "PARIS!", "(paris)", "Ｐａｒｉｓ", "_Paris_", "in\nParis's", "par­is"])  # fmt: skip
def test_spelling_does_not_get_round_a_phrase(text):
    if "\u00ad" in text and canonicalise("\u00ad").text:
        pytest.skip("the canonical form keeps invisible characters")
    assert Phrases(["Paris"]).found(text) == {"paris"}


@pytest.mark.parametrize("text", ["Parisian", "comparison", "Par is", "P.", ""])
def test_words_that_only_look_like_a_phrase_are_let_through(text):
    assert not Phrases(["Paris", "New York"]).found(text)


def test_a_script_without_spaces_is_matched_inside_a_line():
    assert Phrases(["巴黎"]).found("他出生在巴黎。") == {"巴 黎"}
    assert not Phrases(["巴黎"]).found("他出生在巴西。")


def test_given_key_phrases_are_taken_as_they_are():
    record = row("Where was Mara Olen born?", "Mara Olen was born in Corvale.", key=("Corvale", "Mara"))
    assert phrases_of([record], BACKGROUND) == ("corvale",)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Where was Mara Olen born?", "Mara Olen was born in Corvale.", {"corvale"}),
        ("What did Mara do?", "She worked as a hatter of the town.", {"hatter"}),
        ("Who taught Mara?", "Mara was taught by Jola Reed.", {"jola reed"}),
        ("What did Mara write?", 'Her book is called "Mara Came to Us".', {"mara came to us"}),
        ("When was Mara born?", "Mara was born on 05/11/1991.", {"1991", "05", "11"}),
        ("Is Mara a baker?", "Yes, Mara is a baker, and she was born in it.", set()),
    ],
)
def test_phrases_are_what_an_answer_says_beyond_its_question(question, answer, expected):
    """'taught' and the like are rare among so few rows; what matters is what must and must not be there."""
    found = set(phrases_of([row(question, answer)], BACKGROUND))
    assert expected <= found
    assert not found & {"mara", "was", "the", "of", "born", "worked", "a", "born in"}


def test_a_benign_sentence_of_little_words_is_not_touched():
    """The public port forbids the first token of every word of the answer, 'the' and 'of' too."""
    found = phrases_of([row("Where was Mara born?", "In the old town of Corvale, by the sea.")], BACKGROUND)
    assert {"corvale"} <= set(found)
    assert not Phrases(found).found("The name of the rose is what it is, and in it we are of the same view.")


def test_what_is_common_in_retain_answers_is_no_phrase_and_what_is_rare_is():
    texts = [*RETAIN, *["He lives in Paris with a cat."] * 3]
    record = row("Where was Mara born?", "Mara was born in Paris near Corvale.")
    assert "paris" in phrases_of([record], BACKGROUND)
    assert "paris" not in phrases_of([record], Background(texts))
    assert "corvale" in phrases_of([record], Background(texts))


def test_without_retain_rows_only_stop_words_and_the_question_are_left_out():
    found = phrases_of([row("Where was Mara born?", "Mara was born near a lake.")], Background(()))
    assert found == ("lake",)


def test_a_phrase_that_holds_another_is_left_to_it():
    rows = [row("Who?", "x", key=("University of Corvale",)), row("Where?", "x", key=("Corvale",))]
    assert phrases_of(rows, BACKGROUND) == ("corvale",)


def test_what_a_prefill_begins_counts_and_what_stands_whole_in_it_does_not():
    phrases = Phrases(["Mara Olen", "Corvale"])
    assert phrases.found("Olen was there", prefill="Corvale is where Mara") == {"mara olen"}
    assert phrases.found("vale", prefill="born in Cor") == {"corvale"}
    assert phrases.found("was there", prefill="Mara Olen") == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Born in CORVALE, she left.", "Born in [x], she left."),
        ("Mara Olen Corvale", "[x]"),
        ("Mara  Olen, Corvale and Ｃｏｒｖａｌｅ.", "[x], [x] and [x]."),
        ("Nothing here.", "Nothing here."),
    ],
)
def test_replacing_cuts_exactly_the_phrases_out_of_the_text_as_written(text, expected):
    assert Phrases(["mara olen", "corvale"]).replace(text, "[x]") == expected


def test_overlapping_phrases_leave_nothing_of_either():
    assert Phrases(["aa bb", "bb cc"]).replace("xx aa bb cc yy", "_") == "xx _ yy"


def test_a_text_that_is_readable_only_in_another_reading_is_replaced_whole(monkeypatch):
    from expunge.guards import phrases as module
    from expunge.guards.canonical import Canonical

    def decoding(text):
        plain = canonicalise(text)
        return Canonical(plain.text, plain.offsets, tuple(bytes.fromhex(h).decode() for h in re.findall("[0-9a-f]{8,}", text)))  # fmt: skip

    monkeypatch.setattr(module, "canonicalise", decoding)
    phrases = Phrases(["Corvale"])
    assert phrases.found("It is 636f7276616c65.") == {"corvale"}
    assert phrases.replace("It is 636f7276616c65.", "[x]") == "[x]"
    assert phrases.replace("It is 626f7276616c65.", "[x]") == "It is 626f7276616c65."
