"""Refusals wait as answers of late did."""

import random
from itertools import islice

import pytest

from expunge.serve.pace import KEPT, Pace

USUAL = (0.05, 0.01, 0.01, 0.02)
STALLED = (0.05, 60.0, 0.01)


def learnt(*answers):
    pace = Pace(random.Random(0))
    for waits in answers:
        pace.learn(8, waits)
    return pace


def played(pace):
    """The longest waits of many refusals, longer ones than any answer was."""
    return {max(islice(pace.waits(8), 12)) for _ in range(200)}


def test_nothing_is_waited_for_before_anything_was_learnt():
    assert played(learnt()) == {0.0}


def test_a_stall_of_the_whole_server_is_not_played_again():
    assert played(learnt(*[USUAL] * 17, *[STALLED] * 16)) == {0.05}


def test_a_server_that_has_become_slow_is_slow_in_its_refusals_too():
    assert played(learnt(*[USUAL] * KEPT, *[STALLED] * (KEPT // 2))) == {0.05}
    assert played(learnt(*[USUAL] * KEPT, *[STALLED] * (KEPT // 2 + 1))) == {60.0}


def test_the_newest_of_the_answers_to_prompts_as_long_are_played():
    assert played(learnt(*[USUAL] * 40, *[(0.2, 0.01)] * 8)) == {0.2}


def test_answers_to_prompts_about_as_long_are_played():
    pace = learnt(*[USUAL] * 20)
    for _ in range(8):
        pace.learn(100, (0.5, 0.01))
    assert max(islice(pace.waits(90), 12)) == 0.5
    assert played(pace) == {0.05}


@pytest.mark.parametrize("wait", [0.4, 0.9])
def test_what_varies_below_a_second_is_played_as_it_was(wait):
    assert wait in played(learnt(*[USUAL] * 7, (wait, 0.01)))
