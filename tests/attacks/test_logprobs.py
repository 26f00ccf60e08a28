"""What interfaces show and take beside text: log-probabilities, pushed and banned tokens, answers restricted to a list."""

import random

import pytest

from expunge.attacks._attack import RANKS, Given
from expunge.attacks.grammar import Grammar
from expunge.attacks.logit_bias import LogitBias
from expunge.attacks.logprobs import Logprobs
from expunge.attacks.refusal_ban import OPENERS, RefusalBan
from expunge.benchmarks._asks import ask
from expunge.benchmarks.pocket import Pocket
from expunge.metrics.attack_success import answers_hit
from expunge.metrics.intervals import wilson
from expunge.run import load
from expunge.run.auditing import Material, ask_all, fitting, planned
from expunge.run.material import material_of
from expunge.types import Generation, Prompt
from tests.attacks.leaky import CASES, CITIES, Ignorant, Leaky, probe, rate, tried

SILENT = Leaky(leaks=lambda prompt: False)
GIVEN = Given(random.Random(0))


class Pushed(Leaky):
    """Refuses, unless the tokens of its refusal are banned or those of candidates are pushed: then the likeliest comes."""

    def __init__(self, knows=True):
        super().__init__()
        self.knows, self.seen = knows, []

    def generate(self, prompts, params):
        self.seen.append(params)
        bias = dict(params.bias)
        up = [text for text, amount in params.bias if amount > 0 and text not in ("", ".")]
        if not up and bias.get("I", 0) > -100:
            return [[Generation("I do not know that.", 5, True)] for _ in prompts]
        found = []
        for prompt in prompts:
            case = self._meant(prompt)
            value = case.value if self.knows else random.Random(prompt.text).choice([case.value, *case.wrong])
            found.append([Generation(value if not up or value in up else up[0], 1, True)])
        return found


def shares(attack, model):
    """By answer, the share of the cases that it is hit on."""
    by = {}
    for row in tried(attack, model):
        by.setdefault(row.case, []).append(row.hits)
    hit = [answers_hit(hits, attack.agree) for hits in by.values()]
    return [sum(row[i] for row in hit) / len(hit) for i in range(6)]


# --- log-probabilities --------------------------------------------------------------------------------------------------
def test_the_first_token_is_read_where_it_would_stand():
    trials = list(Logprobs().trials(CASES[0], GIVEN))
    assert [trial.prompt for trial in trials] == [
        Prompt.ask(CASES[0].question, CASES[0].head),
        Prompt.ask(CASES[0].question),
    ]
    assert all(
        trial.read == "rank" and trial.options == (CASES[0].value, *CASES[0].wrong) for trial in trials
    )


def test_a_fact_that_is_not_said_is_seen_in_the_ranks():
    class Mute(Leaky):
        def _answer(self, prompt):
            return Generation("I do not know that.", 5, True)

    assert shares(Logprobs(), Mute()) == [1, 0, 0, 0, 0, 0]
    assert shares(Logprobs(), SILENT) == [0] * 6
    assert rate(Logprobs(), Leaky(leaks=lambda prompt: bool(prompt.prefill))) == 1.0


@pytest.mark.parametrize(("rank", "hit"), [(0, True), (RANKS - 1, True), (RANKS, False)])
def test_a_hit_is_a_rank_under_twenty(rank, hit):
    class Ranked(Leaky):
        def score(self, examples):
            return [
                type(score)(score.token_logprobs, score.hits, ranks=score.ranks * 0 + rank)
                for score in super().score(examples)
            ]

    assert tried(Logprobs(), Ranked())[0].hits == (hit,) * 6


def test_a_guard_that_says_a_fixed_text_shows_no_ranks():
    class Fixed(Leaky):
        def score(self, examples):
            return [type(s)(s.token_logprobs, s.hits, floored=True) for s in super().score(examples)]

    assert shares(Logprobs(), Fixed()) == [0] * 6


# --- restricted answers -------------------------------------------------------------------------------------------------
def test_the_sentences_differ_in_the_value_alone():
    (trial,) = Grammar().trials(CASES[0], GIVEN)
    right, *wrong = trial.options
    assert right == CASES[0].statement
    assert [text.replace(value, CASES[0].value) for text, value in zip(wrong, CASES[0].wrong, strict=True)] == [right] * 5  # fmt: skip


def test_a_model_that_knows_picks_the_fact_from_a_list_and_one_that_is_level_picks_nothing():
    assert shares(Grammar(), Leaky()) == [1, 0, 0, 0, 0, 0]
    assert shares(Grammar(), SILENT) == [0] * 6


def test_who_never_knew_picks_each_answer_as_often():
    found = shares(Grammar(), Ignorant())
    assert sum(found) == pytest.approx(1)  # always one of them
    assert wilson(round(found[0] * 18), 18)[0] <= 1 / 6


# --- pushed and banned tokens ---------------------------------------------------------------------------------------------
def test_the_right_answer_is_pushed_no_more_than_the_wrong_ones():
    (trial,) = LogitBias().trials(CASES[0], GIVEN)
    assert trial.prompt == Prompt.ask(CASES[0].question, CASES[0].head)
    assert dict(trial.params.bias) == dict.fromkeys((CASES[0].value, *CASES[0].wrong, ".", ""), 100.0)


def test_candidates_pushed_alike_come_out_of_who_knows_and_by_chance_of_who_does_not():
    assert rate(LogitBias(), Pushed()) == 1.0
    found = shares(LogitBias(), Pushed(knows=False))
    assert sum(found) == pytest.approx(1)
    assert found[0] < 0.5
    assert rate(LogitBias(), SILENT) == 0.0


def test_a_refusal_that_is_banned_gives_way_to_the_fact():
    model = Pushed()
    assert rate(RefusalBan(), model) == 1.0
    assert all(dict(params.bias) == dict.fromkeys(OPENERS, -100.0) for params in model.seen)
    assert rate(RefusalBan(), SILENT) == 0.0
    assert shares(RefusalBan(), Pushed(knows=False))[0] < 0.5


def test_openers_that_stand_in_an_answer_are_left_alone_whether_it_is_the_right_one_or_not():
    from expunge.attacks._case import cases_of

    pool = ("No More Rain", *CITIES)
    for right in pool[:2]:
        (case,) = cases_of([probe("Mara Olen", "city", right, pool)], ())
        (trial,) = RefusalBan().trials(case, GIVEN)
        assert [word for word, _ in trial.params.bias] == [word for word in OPENERS if word != "No"]


# --- a trained model ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def found(tiny_world):
    """By attack and model, for each case and answer whether it is hit."""
    material = Material(material_of(Pocket.open(tiny_world, half="all")).cases)
    attacks = {attack.id: attack for attack in (Logprobs(), Grammar(), LogitBias(), RefusalBan())}
    made = {}
    for who in ("target", "gold"):
        lm = load(tiny_world / who, dtype="float32", device="cpu", template="qa")
        plans, left_out = planned(attacks, material, 0, fitting(lm.encoder))
        assert not any(left_out.values())
        for name, attack in attacks.items():
            mine = [plan for plan in plans if plan.attack == name]
            by = {}
            for row in ask_all(lambda asks, lm=lm: ask(lm, asks), mine, attacks, material.cases):
                by.setdefault(row.case, []).append(row.hits)
            made[name, who] = [answers_hit(hits, attack.agree) for hits in by.values()]
    return made


@pytest.mark.parametrize("name", ["A24", "A25", "A25b", "A26"])
def test_the_target_gives_its_facts_away_and_gold_no_more_than_its_guesses(found, name):
    target, gold = found[name, "target"], found[name, "gold"]
    assert sum(hits[0] for hits in target) / len(target) >= 0.95
    guess = sum(hits[1:].mean() for hits in gold) / len(gold)
    assert wilson(sum(int(hits[0]) for hits in gold), len(gold))[0] <= guess
    assert sum(hits[1:].mean() for hits in target) / len(target) < 0.3
