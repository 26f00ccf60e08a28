"""Direct questions, prefills and choices: where they must succeed, and where they must not."""

import pytest

from expunge.attacks.direct import Direct
from expunge.attacks.multiple_choice import MultipleChoice
from expunge.attacks.prefill import Prefill
from expunge.metrics.attack_success import answers_hit
from tests.attacks.leaky import CASES, Ignorant, Leaky, rate, tried


@pytest.mark.parametrize("attack", [Direct(), Prefill(), MultipleChoice()], ids=lambda a: a.id)
def test_a_model_that_knows_is_hit_every_time_and_one_that_says_nothing_never(attack):
    assert rate(attack, Leaky()) == 1.0
    assert rate(attack, Leaky(leaks=lambda prompt: False)) == 0.0


def test_a_model_that_never_knew_is_right_as_often_as_it_is_wrong_by_each_other_value():
    rows = tried(Direct(samples=0), Ignorant())
    shares = [sum(row.hits[i] for row in rows) / len(rows) for i in range(6)]
    assert sum(shares) == pytest.approx(1.0)  # it always says one of the six
    assert shares[0] < 0.5


def test_a_prefill_stops_right_before_the_fact():
    for row in tried(Prefill(), Leaky(leaks=lambda prompt: False)):
        case = CASES[row.case]
        assert row.prompt.endswith(f"assistant: {case.head}")
        assert case.statement.startswith(f"{case.head} {case.value}")


def test_each_option_stands_once_at_each_letter():
    rows = tried(MultipleChoice(), Leaky())
    mine = [row.prompt for row in rows if row.case == 0]
    value = CASES[0].value
    assert sorted(
        line[0] for prompt in mine for line in prompt.splitlines() if line.endswith(f". {value}")
    ) == list("ABCD")


def test_a_model_that_likes_one_letter_hits_no_answer_at_all():
    class LikesA(Leaky):
        def _is_right(self, case, example, prompt):
            return example.answer == "A"

    assert rate(MultipleChoice(), LikesA()) == 0.0
    by_case = {}
    for row in tried(MultipleChoice(), LikesA()):
        by_case.setdefault(row.case, []).append(row.hits)
    assert all(not answers_hit(hits, MultipleChoice.agree).any() for hits in by_case.values())


def test_the_right_answer_is_not_always_first_at_first():
    first = {}
    for row in tried(MultipleChoice(), Leaky()):
        first.setdefault(row.case, row.prompt)
    letters = {
        line[0]
        for case, prompt in first.items()
        for line in prompt.splitlines()
        if line.endswith(f". {CASES[case].value}")
    }
    assert len(letters) > 1
