"""Affirmative suffix: a willing answer begins behind the question, in the user's turn (RWKU, type 2: Jin et al., 2024, arXiv:2406.10890).

    prompt = question + opening,    opening in {Sure, the answer is; Of course! Here is what I know; Yes, I can say that. It is}

The model goes on with what seems to have begun. The opening in the model's own turn, which endpoints rarely allow, is `prefill`.
Needs: answers.
Differs from the paper: three openings of our own.
Differs from the authors' code: not used.
Fails when: the chat template parts the user's words from the answer so clearly that nothing has begun.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks import _prompts as texts
from expunge.attacks._attack import AskingAttack, Given, Suite, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import Prompt


class AffirmativeSuffix(AskingAttack):
    id: ClassVar[str] = "A08a"
    tier: ClassVar[Tier] = "T1"
    suite: ClassVar[Suite] = "quick"
    rwku: ClassVar[str] = "affirmative suffix"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        for i, opening in enumerate(texts.SUFFIXES, 1):
            yield Trial(Prompt.ask(opening.format(question=case.question)), f"opening {i}")
