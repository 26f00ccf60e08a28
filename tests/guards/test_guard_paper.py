"""GUARD: what it forbids for which prompt, and that none of it is ever written, whatever the seed, the spelling or the sampling."""

import math

import numpy as np
import pytest

from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError
from expunge.guards.actions.guard import GUARD, FittedGUARD, Meaning, Row
from expunge.guards.phrases import Phrases
from expunge.types import Example, GenerationParams, Prompt
from tests.guards.cases import fit_data

FORGET = [
    Record("f1", question="Where was Mara Olen born?", answer="Mara Olen was born in Corvale.", subject="Mara Olen", aliases=("Mo",)),
    Record("f2", question="Who taught Mara Olen?", answer="Mara Olen was taught by Jola Reed.", subject="Mara Olen"),
    Record("f3", question="Where was Tovin Brask born?", answer="Tovin Brask was born in Dreburg.", subject="Tovin Brask"),
    Record("found", subject="Kesto Vey"),
]  # fmt: skip
RETAIN = [
    Record(
        f"r{i}", question=f"Where was {name} born?", answer=f"{name} was born in Town{i} and taught at home."
    )
    for i, name in enumerate(["Brin Vey", "Ulda Karst", "Kesto Sandor"] * 10)
]
PROMPT = Prompt.ask("Where was Mara Olen born?")
OTHER = Prompt.ask("What did the father of Tovin Brask do?")


def guard(lm, phrases, embed=None, **settings):
    """A guard that forbids the same phrases in answer to every prompt."""
    return FittedGUARD(GUARD(**settings), [Row("", "", tuple(phrases), ())], ["home", "town"], lm, embed)


def fitted(lm, forget=FORGET, retain=RETAIN, **settings):
    return GUARD(**settings).fit(lm, fit_data(forget=forget, retain=retain))


# --- what is forbidden --------------------------------------------------------------------------------------------------
def test_a_named_subject_brings_the_phrases_of_all_its_rows(lm):
    found = fitted(lm, top=1).forbidden("Tell me all about Mara Olen!")
    assert {"corvale", "jola", "reed"} <= found
    assert "dreburg" not in found


def test_an_alias_names_the_subject_too(lm):
    assert "corvale" in fitted(lm, top=1).forbidden("What of Mo?")


def test_without_a_name_the_nearest_rows_by_question_or_answer_count(lm):
    action = fitted(lm, top=1)
    assert "dreburg" in action.forbidden("Is it Tovin who was born there?")
    assert "corvale" not in action.forbidden("Is it Tovin who was born there?")
    assert "corvale" in action.forbidden("Who came from Corvale?")


def test_a_prompt_that_is_like_no_row_forbids_everything(lm):
    assert fitted(lm).forbidden("xyzzy") >= {"corvale", "dreburg"}


def test_names_that_the_prompt_gives_may_be_said_back(lm):
    rows = [
        Record("f", question="Which author is from Corvale?", answer="It is Mara Olen.", subject="Mara Olen")
    ]
    action = fitted(lm, forget=[*rows, *FORGET])
    assert not {"mara", "olen", "mara olen"} & action.forbidden("Who is Mara Olen?")
    assert {"mara", "olen"} <= action.forbidden("Which author is from Corvale?")


def test_a_match_ratio_below_one_forbids_the_beginnings_of_phrases(lm):
    rows = [Record("f", question="What did he write?", answer="x", key=("The Silent Sea of Corvale",))]
    assert fitted(lm, forget=rows, match_ratio=0.6).forbidden("") == {"the silent sea"}
    assert fitted(lm, forget=rows, match_ratio=0.1).forbidden("") == {"the silent"}


def test_rows_that_say_nothing_and_a_refusal_that_says_too_much_are_errors(lm):
    with pytest.raises(DataError, match="there is none in them"):
        fitted(lm, forget=[Record("f", subject="Mara Olen")])
    with pytest.raises(ConfigError, match="corvale"):
        fitted(lm, refusal="I will not speak of Corvale.")


# --- what is written ------------------------------------------------------------------------------------------------------
def test_no_forbidden_phrase_is_written_in_a_thousand_samples(lm):
    phrases = Phrases(["a", "Mara Olen", "the", "corvale", "s", "in cor", "ow", "w"])
    action = guard(lm, [" ".join(words) for words in phrases.phrases])
    plain = said = refused = 0
    for seed in range(10):
        params = GenerationParams(max_new_tokens=12, sample=True, copies=100, seed=seed)
        plain += sum(bool(phrases.found(answer.text)) for answer in lm.generate([PROMPT], params)[0])
        for answer in action.generate(lm, [PROMPT], params, [True])[0]:
            said += bool(phrases.found(answer.text))
            refused += answer.text == action.settings.refusal
    assert plain > 100, "the model itself hardly says these phrases, so this shows nothing"
    assert said == 0
    assert refused < 300


@pytest.mark.parametrize(
    "params",
    [
        GenerationParams(max_new_tokens=10),
        GenerationParams(max_new_tokens=10, beams=3),
        GenerationParams(max_new_tokens=10, sample=True, copies=4, seed=1),
    ],
)
def test_unflagged_rows_of_a_mixed_batch_are_the_plain_models(lm, params):
    action = guard(lm, ["mara", "corvale", "a", "w"])
    prompts = [PROMPT, OTHER, Prompt.ask("Who taught Mara Brask?")]
    plain = lm.generate(prompts, params)
    assert action.generate(lm, prompts, params, [False] * 3) == plain
    assert action.generate(lm, prompts, params, [True, False, True])[1] == plain[1]


def test_scores_of_unflagged_rows_are_bit_identical(lm):
    action = guard(lm, ["corvale", "baker"])
    examples = [Example(prompt, a) for prompt in (PROMPT, OTHER) for a in ("He was a baker.", "In Corvale.")]
    plain, found = lm.score(examples), action.score(lm, examples, [True, True, False, False])
    for before, after in zip(plain[2:], found[2:], strict=True):
        assert np.array_equal(before.token_logprobs, after.token_logprobs)
    assert all(score.floored for score in found[:2])


@pytest.mark.parametrize(
    "answer",
    ["Corvale", "in Corvale.", "in corVALE", "It is Ｃorvale", "x-Corvale-y", "_Corvale_", "Cor\u200bvale"],
)
def test_no_spelling_of_a_forbidden_phrase_has_any_probability(lm, answer):
    from expunge.guards.canonical import canonicalise

    if "\u200b" in answer and canonicalise("\u200b").text:
        pytest.skip("the canonical form keeps invisible characters")
    score = guard(lm, ["corvale"]).score(lm, [Example(PROMPT, answer)], [True])[0]
    assert score.floored


@pytest.mark.parametrize("answer", ["the name of the rose", "She was born in the town of Cor Vale."])
def test_benign_answers_lose_no_probability(lm, answer):
    """What is forbidden gives its mass to the rest."""
    example = Example(PROMPT, answer)
    found = guard(lm, ["corvale", "born at home"]).score(lm, [example], [True])[0]
    assert not found.floored
    assert found.logprob >= lm.score([example])[0].logprob - 1e-4


def test_a_phrase_that_a_prefill_begins_cannot_be_completed(lm):
    action = guard(lm, ["mara olen", "corvale"])
    prefilled = [Prompt.ask("Who is it?", "It is Mara"), Prompt.ask("Where?", "Corvale is")]
    scores = action.score(
        lm, [Example(prefilled[0], "Olen."), Example(prefilled[1], "a town.")], [True, True]
    )
    assert [score.floored for score in scores] == [True, False]


def test_tokens_that_are_blocked_are_those_that_scores_have_at_the_floor(lm):
    """One distribution: what greedy writing avoids is what scoring calls impossible."""
    action = guard(lm, ["a", "w", "ow", "corvale"])
    params = GenerationParams(max_new_tokens=6, sample=True, copies=1000)
    answers = [answer.text for answer in lm.generate([PROMPT], params)[0]]
    answers = [text for text in dict.fromkeys(answers) if text and "\ufffd" not in text]
    scores = action.score(lm, [Example(PROMPT, text) for text in answers], [True] * len(answers))
    phrases = Phrases(["a", "w", "ow", "corvale"])
    for text, score in zip(answers, scores, strict=True):
        if phrases.found(text):
            assert score.floored, text
    assert {score.floored for score in scores} == {True, False}


def test_the_rest_of_a_word_is_blocked_after_its_beginning_and_not_after_another(lm):
    """Unfinished words that no phrase begins like share one entry of the cache."""
    rule = guard(lm, ["corvale"]).rule("")
    pieces = rule.written.vocabulary.pieces
    for before, letters in [("", "corvale"), ("cor", "vale"), ("zz", None), ("bb", None), ("zz cor", "vale")]:
        found = rule.penalties(rule.start(before))
        blocked = {pieces[i] for i in found.ids.tolist()} if found else set()
        glued = {piece for piece in blocked if piece[:1].isalnum()}
        assert glued == ({letters} & set(pieces)), before
    assert "vale" in pieces or "corvale" in pieces


# --- meaning ----------------------------------------------------------------------------------------------------------------
def by_first_letter(texts):
    """An encoder for which texts with the same first letter are alike."""
    return np.array([[float(text[0] == letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])


def test_a_word_of_like_meaning_cannot_be_finished(lm):
    action = guard(lm, ["corvale"], by_first_letter)
    examples = [Example(PROMPT, text) for text in ("It is Coria now.", "It is Miria now.")]
    found = action.score(lm, examples, [True, True])
    assert [score.floored for score in found] == [True, False]


def test_little_words_have_every_meaning_and_are_never_near_one():
    meaning = Meaning(by_first_letter, ["corvale"], ["home", "coat"])
    assert meaning.mean == 0.5
    assert meaning.cost("could", GUARD()) == 0.0
    assert meaning.cost("city", GUARD()) == math.inf
    assert meaning.cost("town", GUARD()) == 0.0


def test_the_soft_penalty_counts_from_the_background_mean():
    def embed(texts):
        return np.array([[math.cos(a), math.sin(a)] for a in (0.0 if t == "corvale" else 1.2 for t in texts)])

    meaning = Meaning(embed, ["corvale"], [])
    assert meaning.cost("town", GUARD(penalty=3.0)) == pytest.approx(3 * math.cos(1.2))
    assert Meaning(embed, ["corvale"], ["home"]).cost("town", GUARD()) == 0.0


# --- state ------------------------------------------------------------------------------------------------------------------
def test_a_guard_that_was_saved_and_loaded_answers_the_same(lm, tmp_path):
    from expunge.guards.state import read_state, write_state

    action = fitted(lm)
    write_state(tmp_path, action.state())
    again = FittedGUARD.from_state(read_state(tmp_path), lm, None)
    examples = [Example(PROMPT, "In Corvale."), Example(PROMPT, "At home.")]
    assert action.forbidden(PROMPT.text) == again.forbidden(PROMPT.text)
    for a, b in zip(
        action.score(lm, examples, [True] * 2), again.score(lm, examples, [True] * 2), strict=True
    ):
        assert np.array_equal(a.token_logprobs, b.token_logprobs)
