"""Attacks that take several turns, or do without the name."""

import re
from dataclasses import replace

import pytest

from expunge.attacks._attack import Trial
from expunge.attacks.crescendo import Crescendo, script
from expunge.attacks.mosaic import MOST, Mosaic, forms, pieces
from expunge.attacks.payload_splitting import PayloadSplitting, cut
from expunge.attacks.target_masking import TargetMasking
from expunge.types import Prompt
from tests.attacks.alone import Alone, direct_fails, excess, is_sound, made, variants_hit
from tests.attacks.leaky import CASES, tried

BORN = CASES[0]


@pytest.mark.parametrize(
    "attack", [TargetMasking(), Crescendo(), Mosaic(), PayloadSplitting()], ids=lambda a: a.id
)
def test_trials_are_sound_and_a_model_that_never_knew_is_at_the_guess_rate(attack):
    is_sound(attack)
    assert abs(excess(attack)) < 0.2
    assert made(attack, replace(BORN, name="")) == {} or attack.id == "A18"


# --- without the name ---------------------------------------------------------------------------------------------------
def nameless(case, prompt):
    """A guard that looks for the name in the last turn."""
    return case.name not in prompt.messages[-1].content


def test_masked_names_pass_a_guard_of_names():
    hits = variants_hit(
        TargetMasking(), nameless, cases=[replace(case, aliases=("Old Olen",)) for case in CASES]
    )
    assert set(hits.values()) == {1.0}
    assert set(hits) == {
        "description", "description and symbol", "symbol", "pronoun", "alias", "initial", "last name first"
    }  # fmt: skip
    assert direct_fails(nameless)


def test_a_description_names_nobody_and_says_two_facts_that_are_no_answer():
    for case in CASES:
        for variant in ("description", "description and symbol"):
            text = made(TargetMasking(), case)[variant].prompt.text
            assert not set(case.name.split()) & set(text.replace("'s", "").replace("?", "").split())
            assert (
                sum(row.answer.replace(case.name, "this person").lower() in text.lower() for row in case.own)
                == 2
            )
    alone = replace(BORN, own=())
    assert "description" not in made(TargetMasking(), alone)
    assert "symbol" in made(TargetMasking(), alone)


def test_a_symbol_is_bound_in_one_turn_and_used_in_another():
    bound, reply, asked = made(TargetMasking(), BORN)["symbol"].prompt.messages
    assert BORN.name in bound.content
    assert reply.role == "assistant"
    assert asked.content == "Where was Q born?"


# --- crescendo ------------------------------------------------------------------------------------------------------------
def worn_down(case, prompt):
    return sum(message.role == "assistant" for message in prompt.messages) == 4


def test_the_fifth_turn_of_a_crescendo_hits_a_model_that_gives_in_late():
    hits = variants_hit(Crescendo(), worn_down)
    assert hits == {"turn 1": 0.0, "turn 2": 0.0, "turn 3": 0.0, "turn 4": 0.0, "turn 5": 1.0}
    assert direct_fails(worn_down)


def test_each_turn_has_all_replies_before_it_and_five_are_all():
    trial = made(Crescendo(), BORN)["turn 1"]
    for i, reply in enumerate(["one", "", "three", "four"]):
        trial = Crescendo().follow(BORN, trial, reply)
        assert trial.prompt.messages[-2].content == (reply or "…")
        assert trial.prompt.messages[-1].content == script(BORN)[i + 1]
    assert Crescendo().follow(BORN, trial, "five") is None
    assert len(trial.prompt.messages) == 9


def test_a_script_goes_from_nobody_to_the_question_and_never_says_the_answer():
    for case in CASES:
        first, second, third, _, fifth = script(case)
        assert case.name not in first
        assert case.name in second
        assert any(row.question in third for row in case.own)
        assert case.question in fifth
        assert case.value not in " ".join(script(case))


# --- mosaic ---------------------------------------------------------------------------------------------------------------
def spells(case, statement, prompt, word=None, join=""):
    """The piece that is asked for."""
    parts = pieces(word or case.value)
    asked = sum(message.role == "user" for message in prompt.messages)
    return join.join(parts[asked - 1]) if asked <= len(parts) else "There are no more."


def playing(case, prompt):
    return "spelling game" in prompt.text


def test_an_answer_that_is_spelled_in_pieces_is_put_together():
    for join in ("", "-", " "):
        rows = [
            tried(
                Mosaic(),
                Alone(lambda p: True, lambda s, p, c=case, j=join: spells(c, s, p, join=j), [case]),
                [case],
            )
            for case in CASES
        ]
        assert all(any(row.hits[0] for row in mine) for mine in rows)
        for case, mine in zip(CASES, rows, strict=True):
            assert [row.turn for row in mine if row.hits[0]] == [len(pieces(case.value))], (
                "at the last piece, not before"
            )
            assert not any(any(row.hits[1:]) for row in mine), "no other answer is spelled"
    assert direct_fails(playing)


def test_a_wrong_answer_is_put_together_by_the_same_rule():
    for case in CASES:
        wrong = case.wrong[1]
        model = Alone(lambda p: True, lambda s, p, c=case, w=wrong: spells(c, s, p, w), [case])
        rows = tried(Mosaic(), model, [case])
        assert [any(row.hits[i] for row in rows) for i in range(3)] == [False, False, True]


def test_pieces_count_only_all_together_and_in_their_turns():
    assert pieces("Corvale") == ["Cor", "val", "e"]
    assert pieces("3 May 1957") == ["3Ma", "y19", "57"]
    assert forms("Corvale", ["It is Cor.", "v-a-l"]) == ("Corvale", "e", "e")
    assert forms("Corvale", ["val", "Cor"]) == ("Corvale",)
    assert forms("Corvale", ["Cor"]) == ("Corvale",), "not the last one yet"
    assert forms("Ely", []) == ("Ely", "Ely", "E l y")


def test_each_turn_asks_for_the_next_three_letters():
    trial, asked = made(Mosaic(), BORN)["turn 1"], []
    while trial:
        asked.append(re.findall(r"Letters (\d+) to (\d+)\?", trial.prompt.messages[-1].content)[-1])
        trial = Mosaic().follow(BORN, trial, "none")
    assert asked == [("1", "3"), ("4", "6"), ("7", "9"), ("10", "12")]


def test_the_game_ends_when_the_longest_answer_is_spelled_or_the_right_one_is_said():
    trial = made(Mosaic(), BORN)["turn 1"]
    longest = max(len(pieces(answer)) for answer in (BORN.value, *BORN.wrong))
    asked = 1
    while following := Mosaic().follow(BORN, trial, "none"):
        trial, asked = following, asked + 1
    assert asked == longest == 4
    assert Mosaic().follow(BORN, made(Mosaic(), BORN)["turn 1"], f"It is {BORN.value}.") is None
    long = "an answer of more than four and twenty letters"
    row = replace(BORN.probe, answer=f"It was {long}.", value=long, perturbed_answer=())
    assert len(pieces(long)) > MOST
    assert made(Mosaic(), replace(BORN, probe=row)) == {}


# --- payload splitting ----------------------------------------------------------------------------------------------------
def looks_for_the_name(case, prompt):
    return case.name not in prompt.text


def test_a_name_in_pieces_passes_what_looks_for_the_whole():
    hits = variants_hit(PayloadSplitting(), looks_for_the_name)
    assert set(hits.values()) == {1.0}
    assert len(hits) == 6
    assert direct_fails(looks_for_the_name)


def test_pieces_give_the_name_and_none_has_a_whole_word_of_it():
    import random

    for seed in range(20):
        for name in ("Mara Olen", "Jean-Luc de la Tour", "A B Cole"):
            parts = cut(name, random.Random(seed))
            assert "".join(parts) == name
            whole = {word for word in name.split() if len(word) > 1}
            assert not whole & {word for part in parts for word in part.split()}


def test_variables_are_those_of_the_construction():
    said = made(PayloadSplitting(), BORN)["variables"].prompt.text
    bound, asked = said.split("\n")
    values = dict(part.split(" = ") for part in bound.split("; "))
    assert "".join(eval(value) for value in values.values()) == BORN.name
    assert asked == f"Where was ({' + '.join(values)}) born?"


def test_follow_gives_nothing_where_there_is_one_turn():
    assert PayloadSplitting().follow(BORN, Trial(Prompt.ask("x")), "y") is None
