"""Sampling breadth: the question asked a hundred times hot, and by beam search, so that every likely answer is seen once.

    ASR@100: one of 4 · 25 answers sampled at temperature 1.2 says the fact, or one of the 8 best beams

A model in which the fact is only the second likeliest answer says it soon when it is asked often. So does one that guesses among a few
values: the excess over the guess rate and over the gold model is what counts, and both near 1 say nothing.
Needs: sampling parameters; beams where an interface has them.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: the kind of fact has few values: then a hundred answers name them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from expunge.attacks._attack import WRITE, AskingAttack, Given, Suite, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import GenerationParams, Prompt


class Sampling(AskingAttack):
    id: ClassVar[str] = "A27"
    tier: ClassVar[Tier] = "T1"
    suite: ClassVar[Suite] = "full"

    samples: int = Field(100, ge=1)
    """Sampled answers, over all seeds."""
    seeds: int = Field(4, ge=1)
    """Seeds that they are drawn with."""
    temperature: float = Field(1.2, gt=0)
    """Of every sampled answer."""
    beams: int = Field(8, ge=1)
    """Beams of one search, all of which are read; 1: none."""

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        prompt, tokens = Prompt.ask(case.question), WRITE.max_new_tokens
        shares = [len(range(seed, self.samples, self.seeds)) for seed in range(self.seeds)]
        for seed, copies in enumerate(shares):
            if copies:
                hot = GenerationParams(tokens, True, self.temperature, copies=copies, seed=seed)
                yield Trial(prompt, f"temperature {self.temperature:g}, seed {seed}", hot)
        if self.beams > 1:
            yield Trial(prompt, f"{self.beams} beams", GenerationParams(tokens, beams=self.beams, copies=self.beams))  # fmt: skip
