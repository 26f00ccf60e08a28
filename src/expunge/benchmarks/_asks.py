"""What a benchmark wants to know of a model, asked once each, and the replies looked up by what was asked.

A benchmark first lists everything it will read (`Asks`), then makes its rows from the `Replies`. So each distinct sequence is
scored once and each prompt answered once, however many figures read them; what is asked goes out in batches of like length, and
whatever a `Store` holds already is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from expunge.errors import CapabilityError
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score

Progress = Callable[[str, int, int], None]
Key = tuple[Any, ...]
BATCH = 256
"""Sequences or prompts that are sent to the model together; what an interruption may lose."""
GRADIENTS = 16
"""The same for gradients, which cost one pass each."""


@dataclass
class Asks:
    """Duplicates are welcome: they are asked once."""

    scores: list[Example] = field(default_factory=list)
    """Answers (or raw texts) whose likelihood is needed."""
    answers: list[tuple[Prompt, GenerationParams]] = field(default_factory=list)
    """Prompts that are to be answered."""
    gradients: list[Example] = field(default_factory=list)
    """Answers of which the norm of the gradient of the mean NLL is needed; only models with "gradients" give one."""

    def __add__(self, other: Asks) -> Asks:
        return Asks(
            self.scores + other.scores, self.answers + other.answers, self.gradients + other.gradients
        )


class Store(Protocol):
    """Keeps replies between runs. Keys are those of `score_key`, `answer_key` and `gradient_key`."""

    def get(self, keys: Sequence[Key]) -> dict[Key, Any]:
        """Those that are held."""
        ...

    def put(self, replies: dict[Key, Any]) -> None:
        """Hold one batch, all of it or nothing."""
        ...


class Replies:
    """Of one model. A reply is None where the model cannot give it; `why` then has the reason."""

    def __init__(self, held: dict[Key, Any], why: dict[str, str]):
        self._held = held
        self.why = why
        """Reasons by kind: "score", "answer", "gradient"."""

    def score(self, example: Example) -> Score | None:
        return self._held.get(score_key(example))

    def answer(self, prompt: Prompt, params: GenerationParams) -> list[Generation] | None:
        """`params.copies` of them."""
        return self._held.get(answer_key(prompt, params))

    def gradient(self, example: Example) -> float | None:
        return self._held.get(gradient_key(example))


def score_key(example: Example) -> Key:
    """A row's id and key words are not part of what is asked."""
    return ("score", example.prompt, example.answer)


def answer_key(prompt: Prompt, params: GenerationParams) -> Key:
    return ("answer", prompt, params)


def gradient_key(example: Example) -> Key:
    return ("gradient", example.prompt, example.answer)


def ask(
    model: LanguageModel | Callable[[], LanguageModel],
    asks: Asks,
    store: Store | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Replies:
    """Everything that `asks` lists, a batch at a time. A model that is given as a function is only opened when something is missing.

    What is batched with what does not depend on what the store holds, so an interrupted run goes on to the same replies.
    """
    opened: list[LanguageModel] = []

    def opened_model() -> LanguageModel:
        if not opened:
            opened.append(model if isinstance(model, LanguageModel) else model())
        return opened[0]

    held: dict[Key, Any] = {}
    why: dict[str, str] = {}
    kinds: list[tuple[str, list[dict[Key, Any]], Callable[[Any, list[Any]], list[Any]]]] = [
        ("score", _score_batches(asks.scores, score_key, BATCH), _score),
        ("answer", _answer_batches(asks.answers), _answer),
        ("gradient", _score_batches(asks.gradients, gradient_key, GRADIENTS), _gradient),
    ]
    for kind, batches, reply in kinds:
        total, done = sum(len(batch) for batch in batches), 0
        for batch in batches:
            found = store.get(list(batch)) if store is not None else {}
            if len(found) < len(batch):
                try:
                    found = dict(zip(batch, reply(opened_model(), list(batch.values())), strict=True))
                except CapabilityError as error:
                    why[kind] = str(error)
                    break
                if store is not None:
                    store.put(found)
            held |= found
            done += len(batch)
            progress({"score": "scoring", "answer": "answering", "gradient": "gradients"}[kind], done, total)
    return Replies(held, why)


def _score(model: LanguageModel, batch: list[Example]) -> list[Score]:
    return model.score(batch)


def _answer(model: LanguageModel, batch: list[tuple[Prompt, GenerationParams]]) -> list[list[Generation]]:
    return model.generate([prompt for prompt, _ in batch], batch[0][1])


def _gradient(model: Any, batch: list[Example]) -> list[float]:
    if "gradients" not in model.capabilities:
        raise CapabilityError("the model gives no gradients: it is a guard or an endpoint")
    from expunge.models.gradients import gradient_norms

    return gradient_norms(model, batch)


def _score_batches(
    examples: Sequence[Example], key: Callable[[Example], Key], size: int
) -> list[dict[Key, Example]]:
    """Distinct examples, those of one prompt together, prompts of like length together."""
    groups: dict[Prompt | str, dict[Key, Example]] = {}
    for example in examples:
        groups.setdefault(example.prompt or example.answer, {}).setdefault(key(example), example)
    ordered = sorted(
        groups.values(), key=lambda group: max(len(e.text) + len(e.answer) for e in group.values())
    )
    return _packed(ordered, size)


def _answer_batches(
    answers: Sequence[tuple[Prompt, GenerationParams]],
) -> list[dict[Key, tuple[Prompt, GenerationParams]]]:
    """Distinct prompts under the same parameters, those of like length together."""
    by_params: dict[GenerationParams, dict[Key, tuple[Prompt, GenerationParams]]] = {}
    for prompt, params in answers:
        by_params.setdefault(params, {})[answer_key(prompt, params)] = (prompt, params)
    return [
        batch
        for params, group in by_params.items()
        for batch in _packed(
            [{key: pair} for key, pair in sorted(group.items(), key=lambda item: len(item[1][0].text))],
            max(1, BATCH // params.copies),
        )
    ]


def _packed(groups: Sequence[dict[Key, Any]], size: int) -> list[dict[Key, Any]]:
    """Whole groups into batches of about `size`."""
    batches: list[dict[Key, Any]] = []
    for group in groups:
        if not batches or len(batches[-1]) + len(group) > size:
            batches.append({})
        batches[-1] |= group
    return batches
