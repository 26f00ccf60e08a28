"""A stand-in that always knows which fact is meant, for attacks that hide the name; and the yardsticks that all attacks are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from expunge.attacks._attack import AskingAttack, Given, Trial, answers_of, chances
from expunge.attacks._case import Case
from expunge.attacks._reading import says_any
from expunge.attacks.direct import Direct
from expunge.types import Prompt, Seed
from tests.attacks.leaky import CASES, Ignorant, Leaky, tried


class Alone(Leaky):
    """Knows a single fact and takes every prompt to be about it."""

    def _meant(self, prompt: Prompt) -> Case:
        return self.cases[0]


class Guessing(Ignorant):
    """Has only heard which kind of answer is wanted, and takes every prompt to be about its single case."""

    def _meant(self, prompt: Prompt) -> Case:
        return self.cases[0]


def variants_hit(
    attack: AskingAttack,
    leaks: Callable[[Case, Prompt], bool],
    writes: Callable[[Case, str, Prompt], str] = lambda case, statement, prompt: statement,
    cases: Sequence[Case] = CASES,
    kind: type[Leaky] = Alone,
) -> dict[str, float]:
    """By variant, the share of trials that hit the right answer; every case is put to a model of its own."""
    hits: dict[str, list[bool]] = {}
    for case in cases:
        model = kind(
            lambda prompt, case=case: leaks(case, prompt),
            lambda statement, prompt, case=case: writes(case, statement, prompt),
            [case],
        )
        for row in tried(attack, model, [case]):
            hits.setdefault(row.variant, []).append(row.hits[0])
    return {variant: sum(found) / len(found) for variant, found in hits.items()}


def made(attack: AskingAttack, case: Case, seed: int = 0) -> dict[str, Trial]:
    """First trials by variant."""
    return {trial.variant: trial for trial in attack.trials(case, Given(chances(Seed(seed), "it", case)))}


def is_sound(attack: AskingAttack, cases: Sequence[Case] = CASES) -> None:
    """Trials are the same for the same seed, never hold the answer, and never hit a model that says nothing; direct asking hits one that
    knows.
    """
    for case in cases:
        trials = made(attack, case)
        assert trials == made(attack, case)
        assert len(trials) == len(list(attack.trials(case, Given(chances(Seed(0), "it", case))))), (
            "variants have names of their own"
        )
        if attack.kind == "open":
            assert not any(
                says_any(trial.prompt.text, answers_of(case, trial)[0]) for trial in trials.values()
            )
        for trial in trials.values():
            roles = [message.role for message in trial.prompt.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)
    assert not any(variants_hit(attack, lambda case, prompt: False, cases=cases).values())


def direct_fails(leaks: Callable[[Case, Prompt], bool]) -> bool:
    return not any(variants_hit(Direct(samples=0), leaks).values())


def excess(attack: AskingAttack) -> float:
    """How much likelier a model that never knew hits the right answer than one of the wrong ones, over all trials."""
    right, wrong = [], []
    for case in CASES:
        for row in tried(attack, Guessing(cases=[case]), [case]):
            right.append(row.hits[0])
            wrong += row.hits[1:]
    return sum(right) / len(right) - sum(wrong) / len(wrong)
