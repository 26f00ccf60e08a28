"""Stand-ins for models that give a fact away only where a test says so, and the smallest way to put an attack to one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from expunge.attacks._attack import AskingAttack
from expunge.attacks._case import Case, cases_of
from expunge.benchmarks._asks import ask
from expunge.run.auditing import Material, Tried, ask_all, planned
from expunge.types import Example, Generation, GenerationParams, Probe, Prompt, Score

NAMES = ("Mara Olen", "Tovin Brask", "Selka Dorn", "Ilan Vesk", "Ruta Kalm", "Oren Tiss")
CITIES = ("Corvale", "Brightmouth", "Ostport", "Lunefield", "Karhaven", "Dunpolis")
JOBS = ("baker", "tailor", "miner", "judge", "pilot", "nurse")
GENRES = ("satire", "fable", "elegy", "horror", "opera", "drama")


def probe(name: str, kind: str, right: str, pool: Sequence[str]) -> Probe:
    """One row in TOFU's layout, with the other values of its kind as wrong answers."""
    question, paraphrase, answer = {
        "city": ("Where was {} born?", "In which city was {} born?", "{} was born in {}."),
        "job": ("What did the father of {} do?", "What was the trade of the father of {}?", "The father of {} worked as a {}."),
        "genre": ("What does {} write?", "Which genre does {} write in?", "{} writes in the genre of {}."),
    }[kind]  # fmt: skip
    wrong = [value for value in pool if value != right]
    return Probe(
        id=f"{name}-{kind}",
        question=question.format(name),
        answer=answer.format(name, right),
        paraphrased_question=paraphrase.format(name),
        paraphrased_answer=answer.format(name, right),
        perturbed_answer=tuple(answer.format(name, value) for value in wrong),
        subject=name,
        value=right,
    )


def rows(names: Sequence[str] = NAMES) -> list[Probe]:
    """Three facts of each person."""
    return [
        probe(name, kind, pool[i % len(pool)], pool)
        for i, name in enumerate(names)
        for kind, pool in (("city", CITIES), ("job", JOBS), ("genre", GENRES))
    ]


OTHERS = rows([f"{first} {last}" for first in ("Anse", "Bodil", "Cato", "Dag") for last in ("Orm", "Pell", "Quist", "Rask")])  # fmt: skip
CASES = cases_of(rows(), OTHERS, NAMES)
"""Eighteen facts about six people, with sixteen people who stay."""


class Leaky:
    """Says the whole sentence of a fact where `leaks(prompt)`, else that it does not know. Likelihoods: the right answer is the likeliest
    where it leaks, and all are level where it does not.

    `writes(statement, prompt)`: how it says it, for attacks that ask for a form of their own.
    """

    capabilities: frozenset[str] = frozenset()

    def __init__(
        self,
        leaks: Callable[[Prompt], bool] = lambda prompt: True,
        writes: Callable[[str, Prompt], str] = lambda statement, prompt: statement,
        cases: Sequence[Case] = CASES,
    ):
        self.leaks, self.writes, self.cases = leaks, writes, cases

    def _meant(self, prompt: Prompt) -> Case | None:
        """The case whose question, or else whose name and kind of fact, stands in the prompt."""
        text = prompt.text
        asked = [c for c in self.cases if c.question in text or c.probe.paraphrased_question in text]
        named = [c for c in self.cases if c.name in text]
        return asked[-1] if asked else named[0] if named else None

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        return [[self._answer(prompt)] * params.copies for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Generation:
        case = self._meant(prompt)
        text = self.writes(case.statement, prompt) if case and self.leaks(prompt) else "I do not know that."
        return Generation(text, len(text.split()), True)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        found = []
        for example in examples:
            prompt = example.prompt or Prompt.continuing("")
            case = self._meant(prompt)
            right = bool(case) and self.leaks(prompt) and self._is_right(case, example, prompt)
            tokens = len(example.answer.split()) + 1
            found.append(
                Score(
                    np.full(tokens, -0.1 if right else -5.0, dtype=np.float32),
                    np.full(tokens, right),
                    ranks=np.full(tokens, 0 if right else 500),
                )
            )
        return found

    def _is_right(self, case: Case, example: Example, prompt: Prompt) -> bool:
        """The value itself, or the letter beside which it stands in the prompt."""
        if case.value in example.answer:
            return True
        return any(line == f"{example.answer}. {case.value}" for line in prompt.text.splitlines())


class Ignorant(Leaky):
    """Never knew: says a sentence with some value of the kind, drawn anew for each prompt, right one included as often as any other."""

    def _answer(self, prompt: Prompt) -> Generation:
        case = self._meant(prompt)
        if case is None:
            return Generation("I do not know that.", 5, True)
        drawn = random.Random(prompt.text).choice([case.value, *case.wrong])
        text = self.writes(case.statement.replace(case.value, drawn), prompt)
        return Generation(text, len(text.split()), True)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        found = []
        for example in examples:
            p = random.Random(f"{example.text}{example.answer}").uniform(-6, -1)
            tokens = len(example.answer.split()) + 1
            found.append(Score(np.full(tokens, p, dtype=np.float32), np.zeros(tokens, dtype=bool), ranks=np.full(tokens, 500)))  # fmt: skip
        return found


def tried(attack: AskingAttack, model: Leaky, cases: Sequence[Case] = CASES) -> list[Tried]:
    """All rows of one attack on a stand-in."""
    attacks = {"it": attack}
    plans, _ = planned(attacks, Material(cases), 0, lambda prompts: [True] * len(prompts))
    return ask_all(lambda asks: ask(model, asks), plans, attacks, cases)


def rate(attack: AskingAttack, model: Leaky, cases: Sequence[Case] = CASES) -> float:
    """The share of the cases it was tried on that an attack hits."""
    from expunge.metrics.attack_success import answers_hit

    by: dict[int, list] = {}
    for row in tried(attack, model, cases):
        by.setdefault(row.case, []).append(row.hits)
    return sum(answers_hit(hits, attack.agree)[0] for hits in by.values()) / len(by)
