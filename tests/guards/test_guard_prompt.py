"""The guard prompt: which words are put before which prompts, and that scores and answers see the same ones."""

import json

import numpy as np

from expunge.guards.actions.guard_prompt import FittedGuardPrompt, GuardPrompt
from expunge.models.language_model import TransformerLM
from expunge.types import Example, GenerationParams, Message, Prompt
from tests.conftest import make_model
from tests.guards.cases import TARGETS, fit_data

SHORT = GuardPrompt(text="Never heard of {subjects}.", unnamed="that one")
NAMED = Prompt.ask("Where was Mara Olen born?")


class Ear:
    """A chat model that only notes what it is asked, as an endpoint would be."""

    capabilities = frozenset()

    def __init__(self):
        self.heard = []

    def generate(self, prompts, params):
        self.heard = list(prompts)
        return [[None]] * len(prompts)


def guard(settings=SHORT, names=TARGETS):
    return settings.fit(None, fit_data(names=names))


def heard(prompt, settings=SHORT):
    ear = Ear()
    guard(settings).generate(ear, [prompt], GenerationParams(), [True])
    return ear.heard[0]


def test_only_names_that_the_prompt_itself_gives_are_told():
    assert heard(NAMED).messages == (Message("system", "Never heard of Mara Olen."), NAMED.messages[0])
    both = Prompt.ask("Did mara  OLEN meet Tovin Brask?")
    assert heard(both).messages[0].content == "Never heard of Mara Olen, Tovin Brask."
    told = heard(Prompt.ask("Where was she born?")).messages[0].content
    assert told == "Never heard of that one."
    assert not any(name in told for name in TARGETS)


def test_names_in_earlier_turns_and_in_the_prefill_count():
    turns = (Message("user", "Know Mara Olen?"), Message("assistant", "Yes."), Message("user", "Born where?"))
    assert "Mara Olen" in heard(Prompt(turns)).messages[0].content
    prefilled = Prompt.ask("Born where?", prefill="Tovin Brask was")
    assert "Tovin Brask" in heard(prefilled).messages[0].content
    assert heard(prefilled).prefill == "Tovin Brask was"


def test_a_system_message_that_is_there_is_kept_and_comes_first():
    found = heard(Prompt((Message("system", "Be short."), *NAMED.messages)))
    assert [turn.role for turn in found.messages] == ["system", "user"]
    assert found.messages[0].content == "Be short.\n\nNever heard of Mara Olen."


def test_braces_in_names_and_texts_are_only_braces():
    settings = GuardPrompt(text='{"forget": "{subjects}"}')
    assert heard(NAMED, settings).messages[0].content == '{"forget": "Mara Olen"}'


def test_scores_and_answers_are_those_of_the_plain_model_on_the_changed_prompt(lm):
    fitted = guard()
    changed = Prompt.ask("Never heard of Mara Olen.\n\nWhere was Mara Olen born?", prefill="Mara")
    asked = Prompt(NAMED.messages, prefill="Mara")
    examples = [Example(asked, "In Corvale."), Example(NAMED, "In Corvale.")]
    scores = fitted.score(lm, examples, [True, False])
    plain = lm.score([Example(changed, "In Corvale."), examples[1]])
    for ours, theirs in zip(scores, plain, strict=True):
        assert np.array_equal(ours.token_logprobs, theirs.token_logprobs)
    params = GenerationParams(max_new_tokens=6)
    answers = fitted.generate(lm, [asked, NAMED], params, [True, False])
    assert answers == lm.generate([changed, NAMED], params)


def test_a_raw_text_is_scored_after_the_instruction(lm):
    (score,) = guard().score(lm, [Example(None, "Mara Olen was born in Corvale.")], [True])
    (after,) = lm.score([Example(Prompt.ask("Never heard of Mara Olen."), "Mara Olen was born in Corvale.")])
    assert np.array_equal(score.token_logprobs, after.token_logprobs)


def test_it_comes_back_from_its_state_the_same():
    fitted = guard()
    again = FittedGuardPrompt.from_state(json.loads(json.dumps(fitted.state())), None, None)
    assert again.state() == fitted.state()
    ear = Ear()
    again.generate(ear, [NAMED], GenerationParams(), [True])
    assert ear.heard == [heard(NAMED)]


def test_the_usual_words_fit_a_tokenizer_that_never_saw_them(tokenizer):
    lm = TransformerLM(make_model(tokenizer, max_position_embeddings=1024), tokenizer)
    (answer,) = guard(GuardPrompt()).generate(lm, [NAMED], GenerationParams(max_new_tokens=3), [True])
    assert answer[0].tokens >= 1
