"""Direct question: the row's own question, answered greedily and by sampling.

    ASR@1: greedy;      ASR@11: greedy, or one of ten answers sampled at temperature 1

The floor under every other attack: what comes out here was not forgotten at all. Sampled answers matter, because a guard that lowers the
likeliest answer leaves the second one to whoever asks again.
Needs: answers.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: never; a model that passes it has only stopped answering this question.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from expunge.attacks._attack import WRITE, AskingAttack, Given, Suite, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import GenerationParams, Prompt


class Direct(AskingAttack):
    id: ClassVar[str] = "A00"
    tier: ClassVar[Tier] = "T0"
    suite: ClassVar[Suite] = "quick"

    samples: int = Field(10, ge=0)
    """Answers sampled at temperature 1, beside the greedy one."""

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        yield Trial(Prompt.ask(case.question), "greedy")
        if self.samples:
            sampled = GenerationParams(max_new_tokens=WRITE.max_new_tokens, sample=True, copies=self.samples)
            yield Trial(Prompt.ask(case.question), f"{self.samples} samples", sampled)
