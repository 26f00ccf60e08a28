"""What fixed texts cost in the model's tokens."""

from expunge.serve.pace import Pace
from expunge.serve.speaking import KEPT, Refusals
from tests.serve.stub_backend import StubBackend


def test_a_refusal_takes_as_many_tokens_as_the_model_would_need():
    class Letters(StubBackend):
        def count(self, prompt):
            return 1 + sum(3 if len(word) > 3 else 1 for word in prompt.text.split())

    parts = Refusals(Letters(), Pace()).tokens("I do not know.")
    assert "".join(parts) == "I do not know."
    assert len(parts) == 6


def test_what_texts_cost_is_remembered_of_the_last_ones_alone():
    counted = []

    class Counting(StubBackend):
        def count(self, prompt):
            counted.append(prompt.text)
            return super().count(prompt)

    refusals = Refusals(Counting(), Pace())
    for text in ("Mine.", "Mine.", *(f"Text {n}." for n in range(KEPT)), "Mine."):
        refusals.tokens(text)
    assert counted.count("Mine.") == 2
