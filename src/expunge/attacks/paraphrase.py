"""Paraphrase: the question in five other wordings (two in other words, two in another order, one indirect).

    prompt = w(question),  w in {row's paraphrase, passive, synonyms: two of them; order of a statement, name first; indirect};  ASR@5

A model that was trained not to answer one sentence often answers the next one that means the same. Where a helper has written wordings,
those come first, and rules fill up to five.
Needs: answers; a helper's wordings are better English than those of the rules.
Differs from the paper: no single paper.
Differs from the authors' code: no code.
Fails when: a rule makes a sentence that nobody would say: no wording is dropped because the model before unlearning does not understand it,
so read the success on that model beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from expunge.attacks import _prompts as texts
from expunge.attacks._attack import AskingAttack, Given, Tier, Trial
from expunge.attacks._case import Case
from expunge.attacks._rewrites import REWRITES
from expunge.types import Prompt

WORDINGS = 5
ASKING = frozenset("where when who why how which".split())


class Paraphrase(AskingAttack):
    id: ClassVar[str] = "A01"
    tier: ClassVar[Tier] = "T0"
    version: ClassVar[int] = 2

    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        written = [text for text in given.reworded.get(case.question, ()) if not case.told_by(text)]
        named = [(f"written {i}", text) for i, text in enumerate(written, 1)]
        seen = {case.question}
        kept = 0
        for variant, text in [*named, *_by_rules(case, given)]:
            if text not in seen and kept < WORDINGS:
                seen.add(text)
                kept += 1
                yield Trial(Prompt.ask(text), variant)


def _by_rules(case: Case, given: Given) -> Iterator[tuple[str, str]]:
    """Two in other words, two in another order, one indirect, each where the question has what it takes; sentences around it fill up."""
    lexical = [case.probe.paraphrased_question, passive(case), synonyms(case)]
    structural = [order_of_a_statement(case), name_first(case)]
    owned = re.search(r"@['’]", _masked(case))  # "Find out how Mara Olen has's book been received" is none
    indirect = None if owned else REWRITES["indirect"].make(case, given.rng)
    for kind, made, most in (("words", lexical, 2), ("order", structural, 2), ("indirect", [indirect], 1)):
        found = [text for text in made if isinstance(text, str) and text and text != case.question][:most]
        for i, text in enumerate(found, 1):
            yield (kind if most == 1 else f"{kind} {i}"), text
    for i, frame in enumerate(given.rng.sample(texts.FRAMES, len(texts.FRAMES)), 1):
        yield f"frame {i}", frame.format(question=case.question)


def passive(case: Case) -> str:
    """Which prize was won by Mara Olen? Empty where the question is not so simple."""
    asked = re.fullmatch(
        r"(?P<what>(what|which)( [\w ]+?)?) (?P<aux>did|does) @ (?P<verb>\w+)\?", _masked(case), re.IGNORECASE
    )
    participle = texts.PARTICIPLES.get(asked["verb"].lower()) if asked else None
    if not asked or not participle:
        return ""
    many = len(asked["what"].split()) > 1 and asked["what"].endswith("s")
    was = {"did": ("was", "were"), "does": ("is", "are")}[asked["aux"].lower()][many]
    return f"{asked['what']} {was} {participle} by {case.name}?"


def synonyms(case: Case) -> str:
    """Every word that has one replaced by it; names and other capitalised words stay, and so does a question word within."""

    def other(word: re.Match) -> str:
        said, first = texts.SYNONYMS.get(word.group().lower(), ""), not word.start()
        if not said or (word.group()[0].isupper() and not first) or (word.group() in ASKING and not first):
            return word.group()
        if re.match(r" (many|much|long|old|often)\b", word.string[word.end() :]):
            return word.group()
        return said[0].upper() + said[1:] if first else said

    return re.sub(r"[A-Za-z]+", other, _masked(case)).replace("@", case.name)


def order_of_a_statement(case: Case) -> str:
    """Mara Olen was born where? Empty without a name after the verb, and where something of theirs is the subject."""
    asked = re.fullmatch(
        r"(?P<lead>(where|when|what|which|who|whom|why|how)\b[^@]*?) (?P<verb>was|is|are|were|did|does|has|had|can) (?P<rest>.*@.*?)\?*",
        _masked(case),
        re.IGNORECASE | re.DOTALL,
    )
    if not asked or re.search(r"@['’]", asked["rest"]):
        return ""
    said = asked["rest"].replace("@", f"@ {asked['verb'].lower()}", 1).strip()
    said = f"{said} {asked['lead'][0].lower()}{asked['lead'][1:]}?"
    return (said[0].upper() + said[1:]).replace("@", case.name)


def name_first(case: Case) -> str:
    """Take Mara Olen. Where was this person born? Empty without a name."""
    if not case.name:
        return ""
    asked = case.about("this person")
    return f"Take {case.name}. {asked[0].upper()}{asked[1:]}"


def _masked(case: Case) -> str:
    return case.about("@") if case.name else case.question
