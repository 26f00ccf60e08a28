"""Forget rows about a name, written by the model that knows it: where nothing but the name is given (RWKU, arXiv:2406.10890).

    positive   the model tells about the person             rows of text: for ga, npo
    pair       the same, with a made-up telling beside it   question, answer and alternates: for alternates+dpo
    reject     questions that the model thinks of, its own answer, and a refusal as the alternate: for alternates+imitate

The authors' three kinds in our words. Theirs are asked with a sentence that introduces the person and are opened with one of 582 beginnings;
here only the name is given, and seeded sampling alone makes the texts differ. Their refusal rows have no answer of the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from expunge.errors import DataError
from expunge.types import GenerationParams, LanguageModel, Prompt, Seed

Kind = Literal["positive", "pair", "reject"]
KINDS: tuple[str, ...] = get_args(Kind)
TELL = "Please write a short biography of {name}."
KNOWS = "You know {name} very well. " + TELL
MAKES_UP = "You do not know {name} at all. Please make up a short biography of {name}."
THINKS = "Please write one question about {name}, based on what you know about {name}."
QUESTION_TOKENS = 50
COPIES = 16
"""Texts that are sampled together."""
TRIES = 4
"""How often a text that cannot be used is asked for again."""


def corpus_of(
    model: LanguageModel,
    name: str,
    kind: Kind,
    count: int,
    *,
    tokens: int = 512,
    refusals: Sequence[str] = (),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """`count` rows about one name, as `--forget` reads them; the same whatever other names are asked for. `tokens`: most tokens of a text.
    Raises DataError showing what the model wrote where it cannot be used.
    """
    ask = _Asker(model, name, Seed(seed).child("corpus", kind, name), tokens)
    if kind == "reject":
        questions = ask.sample(THINKS, count, prefill="Question:", line=True)
        answers = ask.greedy(questions)
        return [
            _row(name, kind, i, question=question, answer=answer, alternates=[refusals[i % len(refusals)]])
            for i, (question, answer) in enumerate(zip(questions, answers, strict=True))
        ]
    told = ask.sample(KNOWS, count)
    if kind == "positive":
        return [_row(name, kind, i, text=text) for i, text in enumerate(told)]
    made_up = ask.sample(MAKES_UP, count, never=set(told))
    return [
        _row(name, kind, i, question=TELL.format(name=name), answer=right, alternates=[wrong])
        for i, (right, wrong) in enumerate(zip(told, made_up, strict=True))
    ]


def _row(name: str, kind: str, number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"{name} {kind} {number}", "subject": name, **fields}


class _Asker:
    """One name's questions to the model, each with a seed of its own."""

    def __init__(self, model: LanguageModel, name: str, seed: Seed, tokens: int):
        self.model, self.name, self.seed, self.tokens = model, name, seed, tokens

    def sample(
        self,
        ask: str,
        count: int,
        *,
        prefill: str = "",
        line: bool = False,
        never: set[str] = frozenset(),  # ty: ignore[invalid-parameter-default]
    ) -> list[str]:
        """`count` sampled texts that say something, or first lines of them; none of those in `never`."""
        prompt = Prompt.ask(ask.format(name=self.name), prefill=prefill)
        found: list[str] = []
        last = ""
        for attempt in range(TRIES + count // COPIES):
            params = GenerationParams(
                max_new_tokens=min(QUESTION_TOKENS, self.tokens) if line else self.tokens,
                sample=True,
                top_p=0.9,
                copies=min(COPIES, max(count - len(found), 1)),
                seed=self.seed.child(ask, attempt).number,
            )
            for written in self.model.generate([prompt], params)[0]:
                last = written.text
                text = (last.strip().split("\n")[0] if line else last).strip()
                if any(character.isalnum() for character in text) and text not in never:
                    found.append(text)
            if len(found) >= count:
                return found[:count]
        raise DataError(
            f"asked about {self.name}, the model gave {len(found)} usable texts of {count}. It last wrote:\n"
            f"{last[:300] or '(nothing)'}\nTake a model that follows instructions, or fewer texts:  --count {max(len(found), 1)}"
        )

    def greedy(self, questions: Sequence[str]) -> list[str]:
        """The model's own answer to each question; "No answer." where it has none."""
        params = GenerationParams(max_new_tokens=self.tokens)
        written = self.model.generate([Prompt.ask(question) for question in questions], params)
        return [answer[0].text.strip() or "No answer." for answer in written]
