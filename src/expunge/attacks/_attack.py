"""What every attack is: one way to get a fact back, tried on every case, and read by the same rule on every model.

An attack that *asks* lists trials, and whoever runs it puts all trials of all attacks and cases to the model in common batches. One that
*opens* the model is handed its weights. Neither sees which method made the model.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from expunge.attacks._case import Case
from expunge.config import Settings
from expunge.types import Figure, GenerationParams, Prompt, Seed

if TYPE_CHECKING:
    from expunge.models.language_model import TransformerLM

Tier = Literal["T0", "T1", "T2", "T3", "T4"]
TIERS: dict[Tier, str] = {
    "T0": "asks one question in a chat",
    "T1": "holds conversations, writes any prompt, and samples with any setting",
    "T2": "also starts the answer, reads log-probabilities, pushes single tokens, or restricts the answer to a list",
    "T3": "also fine-tunes what is served",
    "T4": "holds the weights",
}
"""What an attacker can do; each tier can do what those before it can."""
Suite = Literal["quick", "standard", "full"]
SUITES: tuple[Suite, ...] = ("quick", "standard", "full")
"""Each has all attacks of those before it."""
Kind = Literal["open", "choice", "echo", "inside", "list"]
KINDS: dict[Kind, str] = {
    "open": "the fact comes out in the model's own words; these count for ASR_any",
    "choice": "the model picks among given answers, so it is right by chance now and then",
    "echo": "the fact was in the prompt, so nothing was remembered",
    "inside": "the fact is read from the model's insides, not from what it answers",
    "list": "the answers tell who stands on the list of removals, not what was removed",
}
"""What a hit means."""
WRITE = GenerationParams(max_new_tokens=64)
"""Greedy. Fewer tokens would hide what comes after a preamble."""
Answers = tuple[tuple[str, ...], ...]
"""The right answer first, then wrong ones that are as likely to a model that never knew; each with all forms that count as it."""


@dataclass(frozen=True)
class Trial:
    """One prompt put to a model, and how its reply is read."""

    prompt: Prompt
    variant: str = ""
    """Which of the attack's constructions: a language, a codec, a place."""
    params: GenerationParams = WRITE
    read: Literal["text", "choice", "rank"] = "text"
    """text: an answer is said in what was written. choice: it is the likeliest of `options` as an answer. rank: its first token is among the
    RANKS likeliest ones."""
    options: tuple[str, ...] = ()
    """For choice and rank: the answers whose likelihood is read, in the order of the case's answers (the right one first)."""
    codec: str = ""
    """What the model was asked to write in; it is decoded before it is read (see `_reading`)."""
    answers: Answers = ()
    """Where they are other ones than the value and its wrong values."""


RANKS = 20
"""Tokens whose log-probabilities an interface shows."""


@dataclass(frozen=True)
class Given:
    """What an attack may draw on beside the case."""

    rng: random.Random
    """Of its own for each attack and case, so trials do not shift when another attack is added."""
    reworded: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Questions in other words, by question, where a model was asked to write some."""
    translated: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Questions in other languages, by question and language, where a model was asked to translate."""


class AskingAttack(Settings):
    """Needs nothing but answers, or their likelihoods."""

    id: ClassVar[str]
    """Its number in the catalogue."""
    tier: ClassVar[Tier]
    suite: ClassVar[Suite] = "standard"
    """The smallest that has it."""
    kind: ClassVar[Kind] = "open"
    version: ClassVar[int] = 1
    """Raised whenever the same case gives other trials or is read otherwise."""
    agree: ClassVar[float] = 0.0
    """The share of a case's trials that have to hit; 0: one is enough."""
    rwku: ClassVar[str] = ""
    """Which of RWKU's nine types of adversarial probe it is."""

    @abstractmethod
    def trials(self, case: Case, given: Given) -> Iterable[Trial]:
        """What is asked first; nothing where the case has not what it takes. Options and answers are in one order, the right one first."""

    def follow(self, case: Case, trial: Trial, text: str) -> Trial | None:
        """The next turn, after what was written to this one; None where the attack ends."""
        return None

    def figures(self, cases: Sequence[Case], rows: Sequence[Any]) -> Mapping[str, Figure]:
        """More numbers of one model's rows, by name."""
        return {}


class Found(NamedTuple):
    """What an opened model gave away of one case."""

    case: int
    """Its place among the cases."""
    hits: tuple[bool, ...]
    """For the right answer and each wrong one, in the order of the case's answers."""
    variant: str = ""
    text: str = ""
    """What was written or read."""
    prompt: str = ""


class Reading(NamedTuple):
    """All that an attack that opens the model has found."""

    found: Sequence[Found] = ()
    notes: Mapping[str, float | None] = {}
    """More numbers, by name: of the whole model, or curves point by point. None where one is not defined."""
    why: str = ""
    """Why nothing could be tried."""


@dataclass
class Opened:
    """A model whose weights are at hand, and what an attacker who has it may use beside it."""

    lm: TransformerLM
    """Its own copy: it may be changed."""
    again: Callable[[], TransformerLM]
    """Another fresh copy."""
    original: Callable[[], TransformerLM] | None
    """The model before unlearning, opened anew at each call; None where it is not known."""
    cases: Sequence[Case]
    """What is to come back."""
    known: Sequence[Case]
    """Other forgotten rows, about other people: what the attacker knows already."""
    retain: Sequence[Case]
    """Rows that nobody removed."""
    seed: Seed
    train: Callable[..., Any]
    """`train(lm, rows, settings, seed)` fine-tunes a model in place: rows are Examples, settings TrainSettings."""


class OpeningAttack(Settings):
    """Needs the weights."""

    id: ClassVar[str]
    tier: ClassVar[Tier] = "T4"
    suite: ClassVar[Suite] = "standard"
    kind: ClassVar[Kind] = "open"
    version: ClassVar[int] = 1
    agree: ClassVar[float] = 0.0

    @abstractmethod
    def read(self, opened: Opened) -> Reading:
        """What the weights give away. Raises nothing for a model that it cannot be tried on: `Reading.why` says it."""


def answers_of(case: Case, trial: Trial | None = None) -> Answers:
    """What counts as right, then what counts as each wrong answer."""
    return trial.answers if trial and trial.answers else case.answers


def chances(seed: Seed, attack: str, case: Case) -> random.Random:
    """The source of chance of one attack on one case."""
    return random.Random(seed.child("attack", attack, case.probe.id).number)
