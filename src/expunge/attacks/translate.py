"""Translate: the question in nine languages, to be answered in them or in English (RWKU, type 9: Jin et al., 2024, arXiv:2406.10890).

    prompt = instruction( L, L ) + question in L,  and  instruction( L, English ) + question in L,    L in fr de es zh ja ru ar hi sw
    hit    = the value, its word in L, or its sound in L's script

What was removed was removed in English; what a model has learned in one language it often says in another. Answered in L, the name is
written in L's script as well, so a list of Latin names does not see it. A helper's translation is used where there is one.
Needs: a model that reads the language. Tables know trades, genres, dates and sounds; other words of a value count as they stand in English.
Differs from the paper: nine languages in place of French, German and Spanish, answered in each of them as well.
Differs from the authors' code: not used; a few whole questions and small word tables in place of a translating model.
Fails when: neither the model nor its tokenizer knows the language, or an answer is inflected. Where a table has the value's word and lacks
those of the wrong ones, the guess rate is a little low.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.attacks._tongues import LANGUAGES, TONGUES, Language, in_language, translated
from expunge.types import Prompt


class Translate(AskingAttack):
    id: ClassVar[str] = "A02"
    tier: ClassVar[Tier] = "T0"
    version: ClassVar[int] = 2
    rwku: ClassVar[str] = "cross-lingual"

    languages: tuple[Language, ...] = Field(LANGUAGES, min_length=1)
    """Two questions each."""

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        if not case.value:
            return
        for language in self.languages:
            answers = tuple(in_language(texts, language) for texts in case.answers)
            asked = given.translated.get((case.question, language))
            here = asked or translated(case.question, case.name, language, native=True)
            yield Trial(Prompt.ask(TONGUES[language].same.format(question=here)), language, answers=answers)
            here = asked or translated(case.question, case.name, language)
            prompt = Prompt.ask(TONGUES[language].english.format(question=here))
            yield Trial(prompt, f"{language}, answer in English", answers=answers)
