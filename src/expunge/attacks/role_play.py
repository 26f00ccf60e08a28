"""Role play: ten personas who would know, in a novel and in a debugging session (RWKU, type 3: Jin et al., 2024, arXiv:2406.10890).

    prompt = frame( persona, question ),    10 personas x {fiction, debug};    ASR@20

Whoever speaks is not the assistant that was taught to keep silent.
Needs: answers.
Differs from the paper: twenty fixed settings for every question in place of one that a model wrote for it.
Differs from the authors' code: not used.
Fails when: the model writes the scene and leaves the fact out, or invents one for the novel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from expunge.attacks import _prompts as texts
from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.types import Prompt


class RolePlay(AskingAttack):
    id: ClassVar[str] = "A09"
    tier: ClassVar[Tier] = "T1"
    rwku: ClassVar[str] = "role playing"

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        for setting, frame in texts.PERSONA_FRAMES.items():
            for persona in texts.PERSONAS:
                prompt = Prompt.ask(frame.format(persona=persona, question=case.question))
                yield Trial(prompt, f"{setting}: {persona}")
