"""Facts that are asked with and without a context: where they come from, when an answer says one, and what a context may hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from expunge.artifacts.manifest import hash_of
from expunge.attacks._case import name_in
from expunge.benchmarks._asks import Replies
from expunge.benchmarks._data import SUFFIXES, Located, read_file, require
from expunge.benchmarks._open import open_origin
from expunge.benchmarks._qa import Half
from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.metrics.accuracy import is_accurate, words
from expunge.types import GenerationParams, Probe, Prompt

HALF = 0.5
"""Share of the telling words that an answer has to have where nothing says which words are the fact."""
ALIKE = 0.8
"""Cosine from which two rows of one document tell the same."""


class FactOptions(Settings):
    half: Half | None = None
    """Which half of the forget people is asked about: select, report or all. None: as the data's own benchmark has it."""
    split: str | None = None
    """TOFU: forget01, forget05 or forget10. None: forget10."""
    authors: int | None = None
    """TOFU: a subset of so many whole authors. None: all."""
    template: str | None = None
    """How a question becomes a prompt: auto, llama2, qa, chat. None: as the data's own benchmark has it."""
    max_new_tokens: int | None = Field(None, ge=1)
    """The most tokens of an answer. None: as the data's own benchmark has it, 128 for a file."""


@dataclass(frozen=True)
class Fact:
    """One question about one fact."""

    id: str
    document: str
    """What it stands in; rows of one document are one cluster in intervals."""
    question: str
    answer: str
    value: str = ""
    """The words that carry the fact; empty where unknown."""
    statement: str = ""
    """The fact in other words than the answer's."""
    wrong: str = ""
    """The statement with another value; empty where there is none."""
    name: str = ""
    """Whom or what the question names; empty where that is not known."""
    label: str = ""
    """Rows with the same label tell the same fact."""

    @classmethod
    def of(cls, probe: Probe) -> Fact:
        known = probe.value if not is_accurate(probe.question, "", probe.value or "?") else ""
        wrong = next(iter(probe.perturbed_answer), "")
        return cls(
            probe.id or probe.question,
            probe.subject or probe.question,
            probe.question,
            probe.answer,
            known,
            probe.right_answer,
            wrong,
            name_in(probe),
        )

    @cached_property
    def telling(self) -> list[set[str]]:
        """The words that tell the fact where `value` is unknown: those that its wordings share, else those of each; never the question's or
        the wrong statement's.
        """
        other = set(words(self.question)) | set(words(self.wrong)) | _small_words()
        said, stated = set(words(self.answer)) - other, set(words(self.statement)) - other
        return [found for found in ([said & stated] if said & stated else [said, stated]) if found]

    @cached_property
    def telling_wrong(self) -> set[str]:
        """The words that only the wrong statement has."""
        true = set(words(f"{self.question} {self.answer} {self.statement}"))
        return set(words(self.wrong)) - true - _small_words()

    def said_in(self, text: str) -> bool:
        """Whether a text says the fact: its value, or half of its telling words."""
        if self.value or not self.telling:
            return is_accurate(text, self.answer, self.value)
        return any(_share(telling, text) >= HALF for telling in self.telling)

    def wrong_in(self, text: str) -> bool:
        """Whether a text says the wrong value."""
        return bool(self.telling_wrong) and _share(self.telling_wrong, text) >= (1 if self.value else HALF)


def _share(wanted: set[str], text: str) -> float:
    return len(wanted & set(words(text))) / len(wanted)


@cache
def _small_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS) | {"s", "t"}


class Facts(NamedTuple):
    forget: list[Fact]
    retain: list[Fact]
    """What nobody removed; empty for a file."""
    max_new_tokens: int
    template: str
    bare: bool = False
    """Whether the models of this data know bare questions only (pocket)."""

    @property
    def hash(self) -> str:
        return hash_of([[asdict(fact) for fact in part] for part in (self.forget, self.retain)])


def open_facts(data: str | Path, options: FactOptions, benchmark: str) -> Facts:
    """A pocket world, TOFU, or a file of facts. Raises DataError, or ConfigError for an option that the data has no use for."""
    chosen = {
        name: value for name in ("half", "split", "authors") if (value := getattr(options, name)) is not None
    }
    if Path(data).is_file() or Path(data).suffix in SUFFIXES:
        if chosen:
            raise ConfigError(
                f"benchmark {benchmark}: a file of facts ({data}) takes no {', '.join(chosen)}. Leave it out."
            )
        return Facts(read_facts(Path(data)), [], options.max_new_tokens or 128, options.template or "auto")
    if (Path(data) / "world.json").is_file() and (useless := [name for name in chosen if name != "half"]):
        raise ConfigError(
            f"benchmark {benchmark}: a pocket world ({data}) has no {', '.join(useless)}: that is TOFU's. Leave it out."
        )
    origin = open_origin(data, **chosen)
    return Facts(
        [Fact.of(probe) for probe in origin.forget_probes()],
        [Fact.of(probe) for probe in origin.tasks()[origin.roles.retain]],
        options.max_new_tokens or origin.max_new_tokens,
        options.template or origin.template,
        bare=origin.name == "pocket",
    )


def read_facts(path: Path) -> list[Fact]:
    """Rows of a file, each with document, question and answer, and optionally fact; or a question document as KnowOrNot writes it."""
    return [
        Fact(
            str(row.get("identifier", row.get("id", number))),
            row["document"],
            row["question"],
            row["answer"],
            label=str(row.get("fact", "")),
        )
        for number, row in enumerate(
            require(_document_rows(path), {"document": str, "question": str, "answer": str})
        )
    ]


def _document_rows(path: Path) -> Located:
    try:
        text = path.read_text(encoding="utf-8-sig") if path.suffix == ".json" and path.is_file() else ""
        whole = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError:
        whole = None
    if whole is None:
        return read_file(path)  # one row a line, or it says what is wrong
    questions = whole.get("questions")
    if not isinstance(questions, list) or not all(isinstance(row, dict) for row in questions):
        raise DataError(
            f"{path}: no list 'questions' (fields: {', '.join(whole)}). Give KnowOrNot's question document, or one row a line."
        )
    name = str(whole.get("knowledge_base_identifier", path.stem))
    if not questions:
        raise DataError(f"{path}: there are no questions.")
    return [(f"{path}, question {i}", {"document": name, **row}) for i, row in enumerate(questions)]


# --- what stands in a context -----------------------------------------------------------------------------------------
class Library:
    """All facts that a context may be made of."""

    def __init__(self, facts: Sequence[Fact]):
        self.facts = list(facts)
        self._texts = [f" {' '.join(words(f'{fact.question} {fact.answer}'))} " for fact in self.facts]

    @cached_property
    def _vectors(self):
        """[facts, words] TF-IDF of question and answer, each of length 1."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(self._texts)

    def _cosines(self, place: int) -> np.ndarray:
        """[facts]"""
        return (self._vectors @ self._vectors[place].T).toarray()[:, 0]

    def giving_away(self, place: int) -> set[int]:
        """The fact, and every other row that would say it: the same fact, question or answer, its value, or nearly the same text."""
        fact, cosines = self.facts[place], self._cosines(place)
        value = f" {' '.join(words(fact.value))} " if fact.value else ""
        found = {place}
        for i, other in enumerate(self.facts):
            if value:
                gives = value in self._texts[i]
            else:
                gives = other.document == fact.document and fact.said_in(self._texts[i])
            if other.document == fact.document:
                gives |= words(other.answer) == words(fact.answer) or cosines[i] >= ALIKE
            gives |= bool(fact.label) and other.label == fact.label
            if gives or words(other.question) == words(fact.question):
                found.add(i)
        return found

    def nearest(self, place: int, count: int, without: set[int] = frozenset()) -> list[int]:  # ty: ignore[invalid-parameter-default]
        """The `count` facts most like this one (itself first) by cosine, in that order."""
        order = np.argsort(-self._cosines(place), kind="stable").tolist()
        order.remove(place)
        return [i for i in [place, *order] if i not in without][:count]

    def document_of(self, place: int, count: int | None, without: set[int] = frozenset()) -> list[int]:  # ty: ignore[invalid-parameter-default]
        """The facts of its document, in their order: all of them, or the `count` around it."""
        own = [i for i, fact in enumerate(self.facts) if fact.document == self.facts[place].document]
        if count is not None:
            own = sorted(sorted((i for i in own if i not in without), key=lambda i: abs(i - place))[:count])
        return [i for i in own if i not in without]


def diverse(questions: Sequence[str], uniqueness: float, distance: float) -> list[int]:
    """Places of the questions that two filters leave (KnowOrNot's): a sum of TF-IDF of at least min + `uniqueness` · range, then greedily
    the one farthest from all kept ones while its cosine distance is at least `distance`. Raises DataError where nothing tells them apart.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectors = TfidfVectorizer(strip_accents="unicode", max_df=0.9, sublinear_tf=True).fit_transform(
            questions
        )
    except ValueError as error:
        raise DataError(
            f"the questions have no words that tell them apart ({error}). Leave the filter off: --set diverse=false."
        ) from None
    sums = np.asarray(vectors.sum(axis=1)).ravel()
    least = sums.min() + uniqueness * (sums.max() - sums.min())
    left = [i for i in np.argsort(-sums, kind="stable").tolist() if sums[i] >= least]
    kept = [left.pop(0)]
    nearest = 1 - (vectors[left] @ vectors[kept[0]].T).toarray()[:, 0] if left else np.array([])
    while len(nearest) and nearest.max() >= distance:
        best = int(nearest.argmax())
        kept.append(left[best])
        nearest = np.minimum(nearest, 1 - (vectors[left] @ vectors[left[best]].T).toarray()[:, 0])
        nearest[best] = -np.inf
    return sorted(kept)


# --- rows -------------------------------------------------------------------------------------------------------------
def answer_of(
    replies: Replies, prompt: Prompt, params: GenerationParams
) -> tuple[str | None, dict[str, str]]:
    """What was written, and nothing; or None where the model gives no answers, and the reason as the field `why`."""
    written = replies.answer(prompt, params)
    return (
        (written[0].text, {})
        if written
        else (None, {"why": replies.why.get("answer", "the model gave no answer")})
    )


def fields_of(fact: Fact, text: str | None) -> dict[str, Any]:
    """What every row has: whom it is about, what was asked and what was said."""
    return {
        "id": fact.id,
        "subject": fact.document,
        "question": fact.question,
        "reference": fact.answer,
        "value": fact.value,
        "generation": text,
    }


def why_no_answer(rows: Sequence[dict[str, Any]]) -> str:
    """The reason why a model gave no answers, or ""."""
    return next((row["why"] for row in rows if "why" in row), "")
