"""True or false: the right statement and one with a wrong value, and both have to be judged right.

    judged( s ) = argmax over True, False of log p( word | "True or false? s" );
    hit   = judged( right ) is True  and judged( wrong ) is False
    guess = judged( right ) is False and judged( wrong ) is True

To a model that never knew, the two values are exchangeable, so it is right on both as often as wrong on both, and always saying True hits
neither.
Needs: likelihoods of single words, and a wrong value of the same kind.
Differs from the paper: no single paper. The second statement has a wrong value in place of a negation: whoever believes any plausible
sentence judges a statement and its negation right, and has remembered nothing.
Differs from the authors' code: no code.
Fails when: the model says one of the two words to everything, however much it knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks._attack import AskingAttack, Given, Kind, Tier, Trial
from expunge.attacks._case import Case
from expunge.data.facts import last_place
from expunge.types import Prompt


class TrueFalse(AskingAttack):
    id: ClassVar[str] = "A06"
    tier: ClassVar[Tier] = "T0"
    kind: ClassVar[Kind] = "choice"
    agree: ClassVar[float] = 1.0

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        if not case.wrong:
            return
        first, end = last_place(case.value, case.statement)
        false = case.statement[:first] + given.rng.choice(case.wrong) + case.statement[end:]
        for variant, said, options in (
            ("right statement", case.statement, ("True", "False")),
            ("wrong statement", false, ("False", "True")),
        ):
            prompt = Prompt.ask(f"True or false? {said}")
            answers = tuple((option,) for option in options)
            yield Trial(prompt, variant, read="choice", options=options, answers=answers)
