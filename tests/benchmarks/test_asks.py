"""Asking: everything once, in batches that do not depend on what is known already, and nothing lost but one batch."""

import numpy as np
import pytest

from expunge.benchmarks import _asks
from expunge.benchmarks._asks import Asks, ask
from expunge.errors import CapabilityError
from expunge.types import Example, Generation, GenerationParams, Prompt, Score

GREEDY = GenerationParams(max_new_tokens=4)


class Speaker:
    """Says back what it was asked, counts, and breaks off when it is told to."""

    capabilities = frozenset()

    def __init__(self, stop_after=10**9):
        self.calls, self.left = [], stop_after

    def _count(self, what):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.calls.append(what)

    def score(self, examples):
        self._count([e.answer for e in examples])
        return [Score(np.full(2, -float(len(e.answer)), np.float32), np.ones(2, bool)) for e in examples]

    def generate(self, prompts, params):
        self._count([p.text for p in prompts])
        return [[Generation(p.text, params.max_new_tokens, True)] * params.copies for p in prompts]


class Kept(dict):
    def get(self, keys):
        return {key: self[key] for key in keys if key in self}

    put = dict.update


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(_asks, "BATCH", 4)


def examples(n, answers=3):
    return [Example(Prompt.ask(f"q{i}?"), f"a{j}" * (i + 1)) for i in range(n) for j in range(answers)]


def test_duplicates_are_asked_once_and_looked_up_by_what_was_asked():
    model = Speaker()
    rows = examples(3)
    prompt = Prompt.ask("who?")
    replies = ask(model, Asks(rows + rows, [(prompt, GREEDY)] * 3))
    asked = [answer for call in model.calls for answer in call]
    assert len(asked) == len(set(asked)) == 10
    same = Example(rows[0].prompt, rows[0].answer, id="another row", key=("a",))
    assert replies.score(same) is replies.score(rows[0])
    assert replies.answer(prompt, GREEDY)[0].text == "who?"
    assert replies.answer(prompt, GenerationParams(max_new_tokens=5)) is None


def test_the_answers_to_one_prompt_stay_together():
    model = Speaker()
    ask(model, Asks(examples(4)))
    assert all(len(call) == 3 for call in model.calls)


def test_an_interruption_loses_one_batch_and_the_rest_is_asked_as_before():
    asks = Asks(examples(6), [(Prompt.ask(f"who {i}?"), GREEDY) for i in range(9)])
    whole = Speaker()
    ask(whole, asks)
    kept = Kept()
    first = Speaker(stop_after=7)
    with pytest.raises(KeyboardInterrupt):
        ask(first, asks, kept)
    second = Speaker()
    replies = ask(second, asks, kept)
    assert first.calls + second.calls == whole.calls
    assert all(replies.score(example) is not None for example in asks.scores)
    third = Speaker()
    ask(third, asks, kept)
    assert not third.calls


def test_a_model_is_only_opened_when_something_is_missing():
    kept, asks = Kept(), Asks(examples(2))
    ask(Speaker(), asks, kept)
    replies = ask(lambda: pytest.fail("opened for nothing"), asks, kept)
    assert replies.score(asks.scores[0]).tokens == 2


def test_what_a_model_cannot_do_is_a_reason_and_not_an_error():
    class Mute(Speaker):
        def score(self, examples):
            raise CapabilityError("no likelihoods here")

    asks = Asks(examples(1), [(Prompt.ask("who?"), GREEDY)], examples(1))
    replies = ask(Mute(), asks)
    assert replies.score(asks.scores[0]) is None
    assert replies.why["score"] == "no likelihoods here"
    assert "no gradients" in replies.why["gradient"]
    assert replies.answer(Prompt.ask("who?"), GREEDY)
