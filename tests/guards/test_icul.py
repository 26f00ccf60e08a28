"""In-context unlearning: which examples stand before the question, and what happens where they do not fit."""

import json

import numpy as np
import pytest

from expunge.data.dataset import Record
from expunge.errors import DataError
from expunge.guards.actions.icul import ICUL, FittedICUL
from expunge.types import Example, GenerationParams, Message, Prompt
from tests.guards.cases import fit_data

FORGET = [
    Record(f"f{i}", f"What is secret {i}?", f"It is s{i}.", perturbed_answer=(f"It is w{i}.", f"It is v{i}."))
    for i in range(12)
]
RETAIN = [Record(f"r{i}", f"What is public {i}?", f"It is p{i}.") for i in range(24)]
NEW = Prompt.ask("What else?")
K, L = 5, 4


class Ear:
    """A chat model that only notes what it is asked."""

    capabilities = frozenset()

    def generate(self, prompts, params):
        self.heard = list(prompts)
        return [[None]] * len(prompts)


def fit(forget=FORGET, retain=RETAIN, seed=0, **settings):
    return ICUL(**settings).fit(None, fit_data(forget, retain, seed=seed))


def shown(fitted, prompt=NEW):
    """The examples before the prompt's own turns."""
    ear = Ear()
    fitted.generate(ear, [prompt], GenerationParams(), [True])
    (found,) = ear.heard
    turns = found.messages[: len(found.messages) - len(prompt.messages)]
    assert [turn.role for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    return [(turns[i].content, turns[i + 1].content) for i in range(0, len(turns), 2)]


def test_forget_questions_are_answered_wrongly_and_retain_questions_rightly():
    pairs = shown(fit())
    wrong = {row.question: set(row.perturbed_answer) for row in FORGET}
    right = {row.question: row.answer for row in RETAIN}
    assert len(pairs) == K + L
    assert all(answer in wrong[question] for question, answer in pairs[:K])
    assert all(answer == right[question] for question, answer in pairs[K:])
    assert len({question for question, _ in pairs}) == K + L


def test_the_querys_own_row_is_left_out_and_another_takes_its_place():
    fitted = fit()
    for question, _ in shown(fitted):
        asked = Prompt.ask(f"  {question.upper()} ")
        pairs = shown(fitted, asked)
        assert question not in dict(pairs)
        assert len(pairs) == K + L


def test_the_draw_follows_the_seed_and_is_one_for_all_prompts():
    assert shown(fit(seed=1)) == shown(fit(seed=1)) != shown(fit(seed=2))
    assert shown(fit(seed=1), Prompt.ask("Quite another?")) == shown(fit(seed=1))


def test_wrong_answers_are_borrowed_where_rows_have_none():
    forget = [
        Record(f"f{i}", f"Where was Person N{i} born?", f"Person N{i} was born in T{i}.", key=(f"T{i}",))
        for i in range(8)
    ]
    own = {row.question: row for row in forget}
    for question, answer in shown(fit(forget))[:K]:
        assert answer != own[question].answer
        assert own[question].key[0] not in answer


def test_the_control_puts_retain_rows_wrongly_answered_where_the_forget_rows_stood():
    plain, control = shown(fit()), shown(fit(control=True))
    right = {row.question: row.answer for row in RETAIN}
    assert control[K:] == plain[K:]
    assert all(question in right and answer != right[question] for question, answer in control[:K])
    assert len({question for question, _ in control}) == K + L


def test_a_system_message_stays_first_and_the_prefill_last():
    ear = Ear()
    prompt = Prompt((Message("system", "Be short."), *NEW.messages), prefill="It")
    fit().generate(ear, [prompt], GenerationParams(), [True])
    (found,) = ear.heard
    assert found.messages[0] == prompt.messages[0]
    assert found.messages[-1] == prompt.messages[-1]
    assert found.prefill == "It"
    assert len(found.messages) == 2 + 2 * (K + L)


def test_scores_and_answers_are_those_of_the_plain_model_behind_the_examples(lm):
    fitted = fit(forget_examples=1, retain_examples=1, answer_tokens=10)
    (wrong, right) = shown(fitted)
    behind = Prompt((Message("user", wrong[0]), Message("assistant", wrong[1]),
                     Message("user", right[0]), Message("assistant", right[1]), *NEW.messages))  # fmt: skip
    examples = [Example(NEW, "Corvale."), Example(NEW, "Corvale.", "plain"), Example(None, "Mara Olen.")]
    scores = fitted.score(lm, examples, [True, False, True])
    plain = lm.score(
        [Example(behind, "Corvale."), examples[1], Example(Prompt(behind.messages[:-1]), "Mara Olen.")]
    )
    for ours, theirs in zip(scores, plain, strict=True):
        assert np.array_equal(ours.token_logprobs, theirs.token_logprobs)
    params = GenerationParams(max_new_tokens=4)
    assert fitted.generate(lm, [NEW, NEW], params, [True, False]) == lm.generate([behind, NEW], params)


def test_fewer_examples_are_shown_where_the_context_is_short_and_it_is_said(lm):
    fitted = fit(answer_tokens=16)
    with pytest.warns(UserWarning, match="fewer than 9 examples"):
        (score,) = fitted.score(lm, [Example(NEW, "Corvale.")], [True])
    assert score.tokens
    with pytest.warns(UserWarning, match="fewer than 9 examples"):
        (prompt,) = fitted._in_context(lm, [NEW], [True])
    roles = [turn.content for turn in prompt.messages if turn.role == "user"]
    assert sum("secret" in text for text in roles) >= sum("public" in text for text in roles) >= 1
    assert lm.encoder.max_tokens - len(lm.encoder.prompts([prompt])[0].ids) >= 16


def test_a_prompt_that_leaves_no_room_for_an_example_is_refused_not_cut(lm):
    long = Prompt.ask("the quick brown fox jumps over the lazy dog " * 4)
    lm.encoder.prompts([long])  # the plain model could read it
    with pytest.raises(DataError, match="not one example fits"):
        fit(answer_tokens=100).generate(lm, [long], GenerationParams(), [True])
    fit(answer_tokens=100).generate(lm, [long], GenerationParams(max_new_tokens=1), [False])


def test_too_few_rows_are_said_with_what_to_set():
    with pytest.raises(DataError, match=r"shows 5 forget examples .* there are 3 .*\n.*forget_examples=2"):
        fit(FORGET[:3])
    with pytest.raises(DataError, match=r"there are 0 retain rows"):
        fit(retain=[])
    with pytest.raises(DataError, match=r"retain rows left for control"):
        fit(retain=RETAIN[:8], control=True)
    with pytest.raises(DataError, match="at least two question-answer pairs"):
        fit([Record("t", text="A raw text.")])
    assert len(shown(fit(retain=[], retain_examples=0))) == K


def test_it_comes_back_from_its_state_the_same():
    fitted = fit()
    again = FittedICUL.from_state(json.loads(json.dumps(fitted.state())), None, None)
    assert shown(again) == shown(fitted)
