"""Batches with little padding, and plans that depend on their seed alone."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.data.batching import by_length, plan_steps
from expunge.types import Seed


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200))
def test_length_grouping_keeps_every_row_once_within_budget_and_padding(lengths):
    batches = by_length(lengths, batch_tokens=1024)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= 1024 or len(batch) == 1
        assert sum(lengths[i] for i in batch) >= 0.95 * padded


def plan(**changes):
    settings = dict(forget_lengths=[5] * 10, retain_lengths=[5] * 50, batch_size=4, epochs=3, seed=Seed(1))
    return plan_steps(**{**settings, **changes})


def test_every_forget_row_is_seen_once_an_epoch():
    steps = plan()
    for epoch in range(3):
        rows = [i for step in steps if step.epoch == epoch for i in step.forget]
        assert sorted(rows) == list(range(10))


def test_fixed_pairing_keeps_partners_and_fresh_pairing_draws_anew():
    def partners(pairing):
        found = {}
        for step in plan(pairing=pairing):
            for f, r in zip(step.forget, step.retain, strict=True):
                found.setdefault(f, set()).add(r)
        return found

    assert all(len(rows) == 1 for rows in partners("fixed").values())
    assert sum(len(rows) for rows in partners("fresh").values()) > 20


def test_plans_depend_on_the_seed_alone_and_leave_global_generators_alone():
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert plan() == plan() != plan(seed=Seed(2))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_max_steps_overrides_epochs_and_may_exceed_one_pass():
    assert len(plan(max_steps=7)) == 7
    assert len(plan(max_steps=100)) == 100


def test_without_a_forget_set_the_retain_set_leads_and_replay_is_drawn_afresh():
    steps = plan(forget_lengths=[], replay_lengths=[5] * 20, replay=0.5)
    drawn = []
    for epoch in range(3):
        rows = [i for step in steps if step.epoch == epoch for i in step.retain]
        assert sorted(i for i in rows if i < 50) == list(range(50))
        drawn.append(frozenset(i for i in rows if i >= 50))
        assert len(drawn[-1]) == 10
    assert len(set(drawn)) > 1


def test_seed_streams_are_named_and_do_not_shift():
    assert Seed(0).child("order", 3).number == Seed(0).child("order").child(3).number
    assert Seed(0).child("order", 3).number != Seed(0).child("order", 4).number
    assert Seed(0).child("a").number == Seed(0).child("a").number != Seed(1).child("a").number
