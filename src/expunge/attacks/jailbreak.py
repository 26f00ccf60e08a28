"""Jailbreak: ten well-known manners of talking a model out of its rules, once each.

    prompt = bank[ i ]( question ),    i over no limits, two answers, developer mode, hypothetical, opposite day, evil twin, and four more

They are known from harmful requests; here a refusal that was trained in as forgetting is what they talk away. What was never a refusal
stays as it is.
Needs: answers.
Differs from the paper: no single paper; the manners are in public use, the wording is our own.
Differs from the authors' code: no code.
Fails when: the model was trained against just these manners. Success counts facts, never a willing tone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks import _prompts as texts
from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import Prompt


class Jailbreak(AskingAttack):
    id: ClassVar[str] = "A10"
    tier: ClassVar[Tier] = "T1"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        for manner, frame in texts.JAILBREAKS.items():
            yield Trial(Prompt.ask(frame.format(question=case.question)), manner)
