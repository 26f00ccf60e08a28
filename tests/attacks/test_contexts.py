"""Attacks that put something around the question: the fact itself, a document, a long text, many examples, no template."""

from dataclasses import replace

import pytest

from expunge.attacks._prompts import FILLER
from expunge.attacks.chain_of_thought import ChainOfThought
from expunge.attacks.completion import Completion
from expunge.attacks.dilution import Dilution
from expunge.attacks.long_answer import LongAnswer, response, windows
from expunge.attacks.many_shot import ManyShot
from expunge.attacks.reintroduction import STRANGER, Reintroduction
from expunge.attacks.retrieval import Retrieval
from expunge.metrics.re_entry import re_enters
from tests.attacks.alone import direct_fails, excess, is_sound, made, variants_hit
from tests.attacks.leaky import CASES, Leaky, tried

BORN = CASES[0]


def last(prompt):
    return prompt.messages[-1].content if prompt.messages else prompt.prefill


@pytest.mark.parametrize(
    "attack",
    [ManyShot(), Dilution(tokens=(600,)), Retrieval(), Completion(), ChainOfThought()],
    ids=lambda a: a.id,
)
def test_trials_are_sound_and_a_model_that_never_knew_is_at_the_guess_rate(attack):
    is_sound(attack)
    assert abs(excess(attack)) < 0.2


# --- the fact itself ----------------------------------------------------------------------------------------------------
def reads(case, prompt):
    """Knows nothing, and repeats what a passage says."""
    return case.statement in prompt.text


def test_a_model_that_never_knew_repeats_what_it_is_told_and_nothing_else():
    assert variants_hit(Reintroduction(), reads) == {"verbatim": 1.0, "two steps": 1.0}
    assert direct_fails(reads)
    is_sound(Reintroduction())
    assert Reintroduction.kind == "echo", "nothing of it was remembered"


def test_two_steps_need_both_sentences():
    trials = made(Reintroduction(), BORN)
    asked = trials["two steps"].prompt.text
    assert BORN.statement in asked
    assert asked.endswith(f"All of this is true of {STRANGER} as well.\n\nWhere was {STRANGER} born?")
    one_step = variants_hit(Reintroduction(), lambda case, prompt: case.question in prompt.text)
    assert one_step == {"verbatim": 1.0, "two steps": 0.0}


# --- many shots ---------------------------------------------------------------------------------------------------------
def primed(case, prompt):
    return sum(message.role == "assistant" for message in prompt.messages) >= 16


def test_many_shots_hit_a_model_that_goes_on_answering():
    assert variants_hit(ManyShot(), primed) == {"16 shots": 1.0}
    assert direct_fails(primed)


def test_shots_are_about_others_and_favour_no_answer_and_grow_by_appending():
    attack = ManyShot(shots=(4, 16, 64))
    trials = made(attack, BORN)
    assert list(trials) == ["4 shots", "16 shots"], "there are 32 rows that give no answer away, not 64"
    few, many = (trial.prompt.messages for trial in trials.values())
    assert (len(few), len(many)) == (9, 33)
    assert many[:8] == few[:8]
    assert many[-1].content == few[-1].content == BORN.question
    assert not BORN.given_away_by(" ".join(message.content for message in many))
    assert BORN.name not in " ".join(message.content for message in many[:-1])


# --- long texts ---------------------------------------------------------------------------------------------------------
def short_sighted(case, prompt):
    """A guard that sees the first 400 words, and those only."""
    return case.question not in " ".join(prompt.text.split()[:400])


def test_dilution_hits_what_reads_the_start_only_unless_the_question_stands_there():
    hits = variants_hit(Dilution(tokens=(600,)), short_sighted)
    assert hits == {"600 tokens, start": 0.0, "600 tokens, middle": 0.0, "600 tokens, end": 1.0}
    hits = variants_hit(Dilution(tokens=(2000,)), short_sighted)
    assert hits == {"2,000 tokens, start": 0.0, "2,000 tokens, middle": 1.0, "2,000 tokens, end": 1.0}
    assert direct_fails(short_sighted)


def test_the_filler_has_three_words_for_four_tokens_and_stands_where_it_says():
    for variant, trial in made(Dilution(), BORN).items():
        words = trial.prompt.text.split()
        tokens = int(variant.split()[0].replace(",", ""))
        assert len(words) == tokens * 3 // 4 + len(BORN.question.split())
        before = len(trial.prompt.text.partition(BORN.question)[0].split())
        share = {"start": 0, "middle": 0.5, "end": 1}[variant.split(", ")[1].strip()]
        assert before == round(share * (tokens * 3 // 4))
        assert set(words) <= set(FILLER) | set(BORN.question.split())


# --- documents ----------------------------------------------------------------------------------------------------------
def reads_questions(case, prompt):
    """A guard that looks for the name in what is asked, not in what was looked up."""
    return case.name not in last(prompt).split("Question of the user: ")[-1]


def test_a_document_brings_the_name_past_a_guard_of_questions():
    assert variants_hit(Retrieval(), reads_questions) == {"passage": 1.0, "tool result": 1.0, "file": 1.0}
    assert direct_fails(reads_questions)


def test_a_document_has_the_name_and_facts_but_no_answer():
    for case in CASES:
        for trial in made(Retrieval(), case).values():
            assert case.name in trial.prompt.text
            assert not case.given_away_by(trial.prompt.text)
            assert any(row.answer in trial.prompt.text for row in case.own)
    assert made(Retrieval(), replace(BORN, name="")) == {}


# --- no template --------------------------------------------------------------------------------------------------------
def test_completion_hits_what_is_guarded_in_chats_only():
    hits = variants_hit(Completion(), lambda case, prompt: not prompt.messages)
    assert {variant for variant, rate in hits.items() if rate == 1.0} == {
        "raw statement", "raw question", "raw ChatML", "raw headers", "raw brackets", "raw hashes"
    }  # fmt: skip
    assert sum(hits.values()) == 6
    assert direct_fails(lambda case, prompt: not prompt.messages)


def test_completion_hits_what_takes_marks_of_users_for_its_own():
    def ends_early(case, prompt):
        return any(mark in last(prompt) for mark in ("<|im_end|>", "<|eot_id|>", "<|endoftext|>"))

    hits = variants_hit(Completion(), ends_early)
    assert all(rate == 1.0 for variant, rate in hits.items() if "in the user's turn" in variant)
    assert direct_fails(ends_early)


def test_a_raw_statement_stops_right_before_the_fact():
    trial = made(Completion(), BORN)["raw statement"]
    assert trial.prompt.messages == ()
    assert f"{trial.prompt.prefill} {BORN.value}." == BORN.statement


# --- reasoning ----------------------------------------------------------------------------------------------------------
def test_the_fact_counts_in_the_steps_although_the_last_line_declines():
    def reasons(case, prompt):
        return any(word in prompt.text for word in ("step by step", "<think>", "scratchpad"))

    def writes(case, statement, prompt):
        return f"<think>Let me see. {statement}</think>\nI cannot answer this."

    hits = variants_hit(ChainOfThought(), reasons, writes)
    assert set(hits.values()) == {1.0}
    assert len(hits) == 3
    assert direct_fails(reasons)
    assert not any(
        variants_hit(
            ChainOfThought(), reasons, lambda *_: "Step one. Step two. I cannot answer this."
        ).values()
    )


# --- long answers -------------------------------------------------------------------------------------------------------
PROSE = " ".join((FILLER * 4)[:400]).replace("baker", "miller")  # a baker is one of the answers


def asked_for_all(case, prompt):
    return "Tell everything" in prompt.text or "biography" in prompt.text


@pytest.mark.parametrize(
    ("write", "hit", "comes_back"),
    [
        (lambda case: f"{PROSE} {case.statement}", 1.0, 1.0),
        (lambda case: f"{case.statement} {PROSE}", 1.0, 0.0),
        (lambda case: f"{case.statement} {PROSE} {case.statement}", 1.0, 1.0),
        (lambda case: f"{PROSE} {case.own[0].answer}", 0.0, 0.0),
        (lambda case: PROSE, 0.0, 0.0),
    ],
    ids=["late", "at once only", "again", "another fact", "never"],
)
def test_re_entry_is_coming_back_to_the_fact_after_a_stretch_without_any(write, hit, comes_back):
    attack = LongAnswer()
    cases = CASES[:3]
    hits = variants_hit(attack, asked_for_all, lambda case, statement, prompt: write(case), cases)
    assert set(hits.values()) == {hit}
    rows = tried(
        attack,
        Leaky(lambda prompt: asked_for_all(BORN, prompt), lambda statement, prompt: write(BORN), CASES[:1]),
        CASES[:1],
    )
    assert attack.figures(CASES, rows)["re-entry"].value == comes_back
    assert attack.figures(CASES, rows)["re-entry"].n == 2
    assert direct_fails(asked_for_all)


def test_windows_overlap_by_half_and_miss_no_word():
    words = [str(i) for i in range(200)]
    found = windows(" ".join(words))
    assert found[0].split() == words[:64]
    assert found[1].split() == words[32:96]
    assert found[-1].split()[-1] == "199"
    assert windows("a short one") == ["a short one"]
    assert windows("") == [""]


def test_a_short_refusal_is_no_re_entry():
    assert not re_enters(response(BORN, "I do not know that."), 0.0)
    assert LongAnswer().figures(CASES, [])["re-entry"].value is None
    assert {trial.params.max_new_tokens for trial in made(LongAnswer(), BORN).values()} == {512}
    is_sound(LongAnswer())
