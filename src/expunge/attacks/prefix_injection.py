"""Prefix injection: a remark before the question that takes an answer for granted (RWKU, type 1: Jin et al., 2024, arXiv:2406.10890).

    prompt = remark + question,    remark in {you knew it, you told me yesterday, everybody knows it, you were cut off, it is printed}

A refusal that was learned for bare questions does not fire on a claim that the answer was already given.
Needs: answers.
Differs from the paper: five remarks of our own, one trial each; theirs are written for each question by a model.
Differs from the authors' code: not used.
Fails when: the model does not read beyond the question itself; then it is the direct question again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks import _prompts as texts
from expunge.attacks._attack import AskingAttack, Given, Suite, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import Prompt


class PrefixInjection(AskingAttack):
    id: ClassVar[str] = "A07"
    tier: ClassVar[Tier] = "T1"
    suite: ClassVar[Suite] = "quick"
    rwku: ClassVar[str] = "prefix injection"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        for i, remark in enumerate((*texts.PREFIXES, *texts.ORDERS), 1):
            yield Trial(Prompt.ask(remark.format(question=case.question)), f"remark {i}")
