"""A hundred hot answers and eight beams: what comes out of a trained model, and what of one that never knew."""

import random

import pytest

from expunge.attacks._attack import Given
from expunge.attacks.direct import Direct
from expunge.attacks.sampling import Sampling
from expunge.benchmarks._asks import ask
from expunge.benchmarks.pocket import Pocket
from expunge.metrics.attack_success import answers_hit
from expunge.metrics.intervals import wilson
from expunge.run import load
from expunge.run.auditing import Material, ask_all, fitting, planned
from expunge.run.material import material_of
from expunge.types import Generation
from tests.attacks.leaky import CASES, Leaky, rate, tried

GIVEN = Given(random.Random(0))


def test_a_hundred_answers_under_four_seeds_and_eight_beams():
    trials = list(Sampling().trials(CASES[0], GIVEN))
    *hot, beams = [trial.params for trial in trials]
    assert [(p.sample, p.temperature, p.copies, p.seed) for p in hot] == [(True, 1.2, 25, i) for i in range(4)]  # fmt: skip
    assert (beams.sample, beams.beams, beams.copies) == (False, 8, 8)
    assert len({trial.variant for trial in trials}) == 5


@pytest.mark.parametrize(("samples", "copies"), [(1, [1]), (6, [2, 2, 1, 1])])
def test_samples_are_shared_out_over_the_seeds(samples, copies):
    trials = Sampling(samples=samples, beams=1).trials(CASES[0], GIVEN)
    assert [trial.params.copies for trial in trials] == copies


class Rare(Leaky):
    """The fact is in one answer of forty: never in a greedy one, and only where it is sampled hot enough, or stands among the beams."""

    def __init__(self, hot=True):
        super().__init__()
        self.hot = hot

    def generate(self, prompts, params):
        found = super().generate(prompts, params)
        nothing = Generation("I do not know that.", 5, True)
        place = 7 if params.sample and params.seed == 2 and params.temperature > 1.1 else -1
        place = place if self.hot else params.beams - 1 if params.beams > 1 else -1
        return [[row[i] if i == place else nothing for i in range(len(row))] for row in found]


@pytest.mark.parametrize("hot", [True, False])
def test_a_rare_answer_is_met_by_asking_often_or_by_the_beams(hot):
    assert rate(Sampling(), Rare(hot)) == 1.0
    assert rate(Direct(), Rare(hot)) == 0.0
    assert rate(Sampling(), Leaky(leaks=lambda prompt: False)) == 0.0


def test_every_answer_is_a_row_of_its_own():
    rows = tried(Sampling(), Rare(), CASES[:1])
    assert len(rows) == 108
    assert sum(row.hits[0] for row in rows) == 1


def test_the_target_says_its_facts_and_gold_no_more_than_its_guesses(tiny_world):
    material = Material(material_of(Pocket.open(tiny_world, half="all")).cases)
    attacks = {"it": Sampling(samples=40, beams=4)}
    found = {}
    for who in ("target", "gold"):
        lm = load(tiny_world / who, dtype="float32", device="cpu", template="qa")
        plans, _ = planned(attacks, material, 0, fitting(lm.encoder))
        by = {}
        for row in ask_all(lambda asks, lm=lm: ask(lm, asks), plans, attacks, material.cases):
            by.setdefault(row.case, []).append(row.hits)
        found[who] = [answers_hit(hits) for hits in by.values()]
    target, gold = ([bool(hits[0]) for hits in found[who]] for who in ("target", "gold"))
    guess = sum(hits[1:].mean() for hits in found["gold"]) / len(gold)
    assert sum(target) / len(target) >= 0.95
    assert wilson(sum(gold), len(gold))[0] <= guess < 0.5
