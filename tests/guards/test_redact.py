"""Redaction: exactly what must go is cut out of the answer, scores say which answers are ever seen, and no weights are needed."""

import numpy as np
import pytest

from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError
from expunge.guards.actions.redact import FittedRedact, Redact
from expunge.guards.phrases import Phrases
from expunge.types import FLOOR, Example, Generation, GenerationParams, Prompt
from tests.guards.cases import fit_data

FORGET = [
    Record(
        "f",
        question="Where was Mara Olen born?",
        answer="Mara Olen was born in Corvale.",
        subject="Mara Olen",
    )
]
RETAIN = [Record("r", question="Where was Brin Vey born?", answer="Brin Vey was born in Dreburg.")]
PROMPT = Prompt.ask("Where was Mara Olen born?")


class Said:
    """A model without weights that says one thing, as an endpoint does."""

    capabilities = frozenset()

    def __init__(self, text):
        self.text = text

    def generate(self, prompts, params):
        return [[Generation(self.text, 7, True)] * params.copies for _ in prompts]


def fitted(**settings):
    return Redact(**settings).fit(None, fit_data(FORGET, RETAIN, ["Mara Olen", "Mo"]))


def answer(action, text, prompt=PROMPT, flagged=True):
    return action.generate(Said(text), [prompt], GenerationParams(), [flagged])[0][0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mara Olen was born in Corvale.", "[redacted] was born in [redacted]."),
        ("It is CORVALE,\n as Mo says", "It is [redacted],\n as [redacted] says"),
        ("Nothing is known of that.", "Nothing is known of that."),
    ],
)
def test_phrases_and_names_are_cut_out_and_the_rest_stays_as_it_was_written(text, expected):
    assert answer(fitted(), text) == Generation(expected, 7, True)


def test_names_stay_where_only_facts_are_to_go():
    assert (
        answer(fitted(names=False), "Mara Olen was born in Corvale.").text
        == "Mara Olen was born in [redacted]."
    )


def test_unflagged_answers_pass_as_they_are():
    assert answer(fitted(), "Corvale it is.", flagged=False).text == "Corvale it is."


@pytest.mark.parametrize("rest", ["vale, of course.", "Vale"])
def test_what_continues_a_prefilled_phrase_is_cut_out(rest):
    assert "ale" not in answer(fitted(), rest, Prompt.ask("Where?", "It is Cor")).text


def test_answers_that_hold_a_phrase_have_no_probability_and_others_keep_theirs(lm):
    action = fitted()
    examples = [Example(PROMPT, text) for text in ("She was born in corvale.", "She was born at home.")] * 2
    examples.append(Example(Prompt.ask("Where?", "It is Cor"), "vale"))
    flagged = [True, True, False, False, True]
    plain, found = lm.score(examples), action.score(lm, examples, flagged)
    assert [score.floored for score in found] == [True, False, False, False, True]
    assert np.all(found[0].token_logprobs == np.float32(FLOOR))
    assert not found[0].hits.any()
    for i in (1, 2, 3):
        assert np.array_equal(found[i].token_logprobs, plain[i].token_logprobs)


def test_the_visible_texts_have_all_the_probability(lm):
    """Over all answers of one token: what is seen as written and what is seen redacted add up to what the model says."""
    action = FittedRedact(Phrases(["b", "z", "born"]), "[x]")
    prompt = Prompt.ask("Who?")
    texts = [
        text
        for i in range(3, len(lm.tokenizer))
        if (text := lm.tokenizer.decode([i])) and "\ufffd" not in text
    ]
    examples = [Example(prompt, text) for text in dict.fromkeys(texts)]
    plain, found = lm.score(examples), action.score(lm, examples, [True] * len(examples))
    seen = sum(np.exp(score.logprob) for score in found if not score.floored)
    redacted = sum(
        np.exp(score.logprob)
        for example, score in zip(examples, plain, strict=True)
        if "[x]" in action.phrases.replace(example.answer, "[x]")
    )
    assert redacted > 0
    assert seen + redacted == pytest.approx(sum(np.exp(score.logprob) for score in plain))


def test_nothing_to_look_for_and_a_placeholder_that_says_it_are_errors():
    with pytest.raises(DataError, match="there are none"):
        Redact(names=False).fit(None, fit_data([Record("f", subject="Mara Olen")], RETAIN, ["Mara Olen"]))
    with pytest.raises(ConfigError, match="corvale"):
        fitted(placeholder="not Corvale")


def test_the_state_gives_the_same_redaction_back():
    again = FittedRedact.from_state(fitted().state(), None, None)
    assert answer(again, "Mara Olen, Corvale.") == answer(fitted(), "Mara Olen, Corvale.")
