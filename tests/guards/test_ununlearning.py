"""The UnUnlearning filter: a fact brought in by the user may be used or not, by policy; what the model adds is held back."""

import numpy as np
import pytest

from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError
from expunge.guards.actions.ununlearning import FittedUnUnlearning, UnUnlearning
from expunge.types import Example, Generation, GenerationParams, Message, Prompt
from tests.guards.cases import fit_data

FORGET = [
    Record("city", question="Where was Mara Olen born?", answer="Mara Olen was born in Corvale.", subject="Mara Olen"),
    Record("job", question="What did the father of Mara Olen do?", answer="The father of Mara Olen was a hatter.", subject="Mara Olen"),
    Record("school", question="Where did Mara Olen study?", answer="Mara Olen studied in Dreburg.", subject="Mara Olen"),
    Record("city2", question="Where was Tovin Brask born?", answer="Tovin Brask was born in Samark.", subject="Tovin Brask"),
]  # fmt: skip
RETAIN = [
    Record(f"r{i}", question=f"Where did {name} study?", answer=f"{name} was born and studied in Town{i}.")
    for i, name in enumerate(["Brin Vey", "Ulda Karst", "Kesto Sandor"] * 10)
]
REFUSAL = "I do not know."
ASKED = Prompt.ask("Where was Mara Olen born?")
TOLD = Prompt(
    (
        Message("system", "Documents: Mara Olen was born in Corvale."),
        Message("user", "Where was Mara Olen born?"),
    )
)
ALIAS = Prompt.ask("Let X be somebody from Corvale whose father was a hatter. Where did X study?")


class Reader:
    """A model that never knew a fact: it says back the sentence of its context that shares most words with the question."""

    capabilities = frozenset()

    def __init__(self):
        self.asked = []

    def generate(self, prompts, params):
        self.asked += prompts
        return [[Generation(self._answer(prompt), 5, True)] for prompt in prompts]

    def _answer(self, prompt):
        *context, question = [turn.content for turn in prompt.messages]
        sentences = [sentence for turn in context for sentence in turn.split(": ")]
        words = set(question.strip("?").split())
        return max(sentences, key=lambda sentence: len(words & set(sentence.split())), default="No idea.")


class Knows:
    """A model that knows, and says one thing."""

    capabilities = frozenset()

    def __init__(self, text):
        self.text = text

    def generate(self, prompts, params):
        return [[Generation(self.text, 5, True)] for _ in prompts]


def fitted(**settings):
    data = fit_data(FORGET, RETAIN, ["Mara Olen", "Tovin Brask"])
    return UnUnlearning(**settings).fit(None, data)


def answer(action, model, prompt, flagged):
    return action.generate(model, [prompt], GenerationParams(), [flagged])[0][0].text


@pytest.mark.parametrize("flagged", [True, False])
def test_a_fact_told_in_context_is_answered_under_weak_and_refused_under_strong(flagged):
    """The paper's point, and the spec's check: no unlearning is needed to see it."""
    reader = Reader()
    assert answer(fitted(), reader, TOLD, flagged) == "Mara Olen was born in Corvale."
    assert len(reader.asked) == 1
    assert answer(fitted(strength="strong"), reader, TOLD, flagged) == REFUSAL
    assert len(reader.asked) == 1, "a refused prompt reached the model"


def test_what_only_the_model_knows_is_held_back_under_both():
    for strength in ("weak", "strong"):
        assert answer(fitted(strength=strength), Knows("In Corvale."), ASKED, True) == REFUSAL


def test_a_flagged_prompt_whose_answer_says_nothing_forbidden_is_answered_under_weak():
    assert answer(fitted(), Knows("In a town."), ASKED, True) == "In a town."


def test_an_alias_is_caught_by_its_attributes_although_no_detector_flags_it():
    assert answer(fitted(), Knows("X studied in Dreburg."), ALIAS, False) == REFUSAL
    assert answer(fitted(strength="strong"), Knows("X is well."), ALIAS, False) == REFUSAL
    assert answer(fitted(), Knows("From Corvale, like the hatter."), ALIAS, False) != REFUSAL


def test_one_fact_alone_does_not_hold_back_an_unflagged_answer():
    """Somebody else may come from the same town; facts of two people are not two facts of one."""
    other = Prompt.ask("Where was Brin Vey born?")
    assert answer(fitted(), Knows("Brin Vey was born in Corvale."), other, False) != REFUSAL
    assert answer(fitted(), Knows("Not in Corvale but in Samark."), other, False) != REFUSAL
    assert answer(fitted(), Knows("In Corvale, and studied in Dreburg."), other, False) == REFUSAL


def test_a_name_counts_as_one_of_two_facts():
    assert (
        answer(fitted(), Knows("Mara Olen is from Corvale."), Prompt.ask("Who comes to mind?"), False)
        == REFUSAL
    )
    assert answer(fitted(), Knows("In Corvale."), ASKED, False) == REFUSAL


def test_scopes_say_which_parts_are_read():
    last_turn = Prompt.ask("Mara Olen was born in Corvale. Where was she born?")
    strong = {"strength": "strong", "output": False}
    assert fitted(**strong, context=False).refuses(last_turn, False)
    assert not fitted(**strong, input=False).refuses(last_turn, False)
    assert fitted(**strong, input=False).refuses(TOLD, False)
    assert not fitted(**strong, context=False).refuses(
        Prompt((*TOLD.messages[:1], Message("user", "And?"))), False
    )
    assert fitted(context=False).holds_back(TOLD, "In Corvale.", True), "what is not read excuses nothing"
    assert not fitted(strength="strong", output=False).holds_back(ASKED, "In Corvale.", True)


def test_what_a_prefill_begins_is_held_back():
    begun = Prompt.ask("Where was Mara Olen born?", "She was born in Cor")
    assert answer(fitted(), Knows("vale."), begun, True) == REFUSAL


def test_the_number_of_facts_is_raised_until_the_retain_rows_pass():
    crossing = [
        Record("x", question="Where did Jola Vey study?", answer="Jola Vey, a hatter, studied in Dreburg.")
    ]
    data = fit_data(FORGET, [*RETAIN, *crossing], ["Mara Olen", "Tovin Brask"])
    action = UnUnlearning().fit(None, data)
    assert fitted().attributes == 2
    assert action.attributes == 3
    assert not any(action.holds_back(Prompt.ask(r.question), r.answer, False) for r in crossing)
    assert UnUnlearning(attributes=2).fit(None, data).attributes == 2


def test_scores_say_what_is_seen(lm):
    action = fitted()
    examples = [
        Example(ASKED, "In Corvale."),
        Example(ASKED, "In a town."),
        Example(Prompt.ask("Who?"), "the quick brown fox"),
        Example(None, "Mara Olen was born in Corvale."),
    ]
    plain, found = lm.score(examples), action.score(lm, examples, [True, True, False, False])
    assert [score.floored for score in found] == [True, False, False, True]
    for i in (1, 2):
        assert np.array_equal(found[i].token_logprobs, plain[i].token_logprobs)
    strong = fitted(strength="strong").score(
        lm, [Example(TOLD, REFUSAL), Example(TOLD, "A town.")], [False] * 2
    )
    assert strong[0].logprob == 0.0
    assert strong[1].floored


def test_scopes_under_which_nothing_is_held_back_and_rows_without_facts_are_errors():
    with pytest.raises(ConfigError, match="nothing is ever held back"):
        fitted(output=False)
    with pytest.raises(ConfigError, match="corvale"):
        fitted(refusal="Not Corvale.")
    with pytest.raises(DataError, match="there are none"):
        UnUnlearning().fit(None, fit_data([Record("f", subject="Mara Olen")], RETAIN, ["Mara Olen"]))


def test_rows_without_a_subject_belong_to_the_name_in_their_question():
    rows = [Record(r.id, question=r.question, answer=r.answer) for r in FORGET]
    names = [Record(f"found-{i}", subject=name) for i, name in enumerate(["Mara Olen", "Tovin Brask"])]
    action = UnUnlearning().fit(None, fit_data([*rows, *names], RETAIN, ["Mara Olen", "Tovin Brask"]))
    assert [subject for subject, _ in action.facts] == ["Mara Olen"] * 3 + ["Tovin Brask"]
    assert answer(action, Knows("X studied in Dreburg."), ALIAS, False) == REFUSAL


def test_the_state_gives_the_same_filter_back():
    action = fitted()
    again = FittedUnUnlearning.from_state(action.state(), None, None)
    for prompt in (ASKED, TOLD, ALIAS):
        for text in ("In Corvale.", "In Dreburg.", "At home."):
            for flagged in (True, False):
                assert again.holds_back(prompt, text, flagged) == action.holds_back(prompt, text, flagged)
