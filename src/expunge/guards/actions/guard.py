"""GUARD, generation-time unlearning via adaptive restriction and detection (Deng et al., 2025, arXiv:2505.13312).

    C(v) = -log p(v | x, y) + P_tok(y v) + P_sem(y v)        F: the phrases of the forget rows nearest to x
    P_tok = ∞ if the text y v completes a phrase of F (the first β of its words) else 0
    P_sem = ∞ if s >= δ else λ · max(0, s - s0),      s: highest cosine of the last whole word with a phrase of F

A prompt in scope is answered by the model itself, which may not say what the rows nearest to the prompt say. F: the phrases of
all rows whose subject the prompt names, and of the `top` rows whose question or answer is most like it; of all rows where that
leaves none. Names that stand in the prompt are not forbidden.
Needs: a detector, forget pairs or texts, which the guard keeps in clear; retain rows tell common words from telling ones.
Differs from the paper: text is matched in canonical form as words, not token ids; the penalties act on every way of writing
(greedy, sampled, beams) and on scores, not in a beam search of the method's own; a half-written word is taken back; the nearest
rows are several, found by words of their questions or answers, not one answer by SBERT; P_sem is off without an encoder, spares
stop words, and its soft part counts from the retain words' mean s0. That part is felt in a beam search, which adds costs up;
sampling and scores normalise it away where nothing else can follow the word.
Differs from the authors' code: code not found; a public port forbids the first token of every word, "the" too, and answers
without any guard where all beams are blocked. Here the refusal is given.
Fails when: the fact is said in other words (a date spelt out, a city by its landmarks); a part of a phrase is telling; no forget
answer has the words; or many answers are compared: what a model never says although it fits stands out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from expunge.config import Settings
from expunge.errors import ConfigError, DataError
from expunge.guards.inside import InsideAction
from expunge.guards.phrases import STOP_WORDS, Background, Phrases, canonical_words, phrases_of
from expunge.guards.written_phrases import State, Vocabulary, WrittenPhrases
from expunge.models.restricted import RestrictedTokens
from expunge.types import Seed

if TYPE_CHECKING:
    from expunge.guards.guard import FitData, Place
    from expunge.models.language_model import TransformerLM
    from expunge.models.restricted import Penalties

BACKGROUND_WORDS = 200
"""Retain words that s0 is the mean over."""
Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to [texts, dimensions] of unit length."""


class GUARD(Settings):
    claim: ClassVar = "suppression"
    needs: ClassVar = frozenset({"weights"})

    top: int = Field(5, ge=1)
    """Forget rows most like the prompt whose phrases are forbidden, beside those of the subjects it names."""
    match_ratio: float = Field(1.0, gt=0, le=1)
    """β: the share of a phrase's words, from its first on, that may not be said."""
    encoder: str | None = None
    """A sentence encoder (folder or hub id of transformers) that also forbids words of like meaning. None: words as they are."""
    delta: float = Field(0.5, gt=0, le=1)
    """δ: similarity to a phrase from which a word may not be said."""
    penalty: float = Field(1.0, ge=0)
    """λ: nats for each unit of similarity above the retain words' mean."""
    rounds: int = Field(8, ge=1)
    """How often an answer is written again before the refusal is given."""
    refusal: str = "I do not know."
    """The answer where nothing can be said."""

    def fit(self, model: TransformerLM, data: FitData) -> FittedGUARD:
        """Find the phrases. Raises DataError where no row has any, ConfigError for a refusal that says one."""
        background = Background.of(data.retain)
        rows = []
        for record in data.forget:
            if record.shape != "subject":
                phrases = tuple(
                    _first(phrase, self.match_ratio) for phrase in phrases_of([record], background)
                )
                texts = (record.question, record.answer or record.text)
                question, answer, *names = (
                    " ".join(canonical_words(text)) for text in (*texts, record.subject, *record.aliases)
                )
                rows.append(Row(question, answer, phrases, tuple(filter(None, names))))
        every = Phrases(phrase for row in rows for phrase in row.phrases)
        if not every:
            raise DataError(
                "guard forbids the phrases of the forget answers, and there is none in them.\n"
                "Give question-answer pairs or texts whose answers say something, or mark their words in the field 'key'."
            )
        if said := every.found(self.refusal):
            raise ConfigError(
                f"action guard: the refusal {self.refusal!r} says what is forbidden: {sorted(said)}."
            )
        words: list[str] = []
        if self.encoder:
            pool = sorted({word for text in background.texts for word in text.split()} - STOP_WORDS)
            rng = np.random.default_rng(Seed(data.seed).child("guard", "background").number)
            words = [pool[i] for i in rng.permutation(len(pool))[:BACKGROUND_WORDS]]
        return FittedGUARD(self, rows, words, model, _embedding(self.encoder, model))


def _embedding(encoder: str | None, model: TransformerLM) -> Embed | None:
    from expunge.guards.sentences import SentenceEncoder

    return SentenceEncoder(encoder, model.model.device).encode if encoder else None


def _first(phrase: str, ratio: float) -> str:
    """The first words of a phrase: that share of them, rounded up, and on to the first that is no stop word."""
    words = phrase.split()
    least = math.ceil(ratio * len(words))
    telling = next((i for i, word in enumerate(words, 1) if word not in STOP_WORDS), len(words))
    return " ".join(words[: max(least, telling)])


class Row(NamedTuple):
    """What is kept of a forget row, in canonical form."""

    question: str
    answer: str
    phrases: tuple[str, ...]
    names: tuple[str, ...]


class FittedGUARD(InsideAction):
    def __init__(
        self,
        settings: GUARD,
        rows: Sequence[Row],
        background: Sequence[str],
        model: TransformerLM,
        embed: Embed | None,
    ):
        self.settings, self.rows, self.background = settings, list(rows), background
        self.tokenizer, self.embed = model.tokenizer, embed
        self.nearest = Nearest(self.rows)
        self.called = Phrases(name for row in rows for name in row.names)
        self.vocabulary = Vocabulary(model.tokenizer)
        special = set(self.tokenizer.all_special_ids)
        self.change = RestrictedTokens(
            self.rule,
            self.tokenizer(settings.refusal, add_special_tokens=False)["input_ids"],
            [i for i in range(len(self.tokenizer)) if i not in special],
            settings.rounds,
        )
        self._rule_of_phrases = lru_cache(1024)(self._make_rule)
        self._rule_of_prompt = lru_cache(4096)(lambda prompt: self._rule_of_phrases(self.forbidden(prompt)))

    def forbidden(self, prompt: str) -> frozenset[str]:
        """F: what may not be said in answer to a prompt."""
        called = self.called.found(prompt)
        given = {word for name in called for word in name.split()}
        named = [row for row in self.rows if not called.isdisjoint(row.names)]
        for rows in ([*named, *self.nearest.find(prompt, self.settings.top)], self.rows):
            phrases = {
                phrase for row in rows for phrase in row.phrases if not given.issuperset(phrase.split())
            }
            if phrases:
                break
        return frozenset(phrases)

    def rule(self, prompt: str) -> Restriction:
        return self._rule_of_prompt(prompt)

    def _make_rule(self, phrases: frozenset[str]) -> Restriction:
        meaning = Meaning(self.embed, sorted(phrases), self.background) if self.embed and phrases else None
        return Restriction(self.settings, WrittenPhrases(Phrases(phrases), self.vocabulary), meaning)

    def state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "rows": [row._asdict() for row in self.rows],
            "background": list(self.background),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], model: TransformerLM, place: Place) -> FittedGUARD:
        rows = [
            Row(row["question"], row["answer"], tuple(row["phrases"]), tuple(row["names"]))
            for row in state["rows"]
        ]
        settings = GUARD.parse(state["settings"], "guard")
        return cls(settings, rows, state["background"], model, _embedding(settings.encoder, model))


class Nearest:
    """Forget rows by likeness to a prompt: cosine of rare words' weights, the better of question and answer."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        texts = [(i, set(text.split()) - STOP_WORDS) for i, row in enumerate(rows) for text in row[:2]]
        counts = Counter(word for _, words in texts for word in words)
        self.weights: dict[str, list[tuple[int, float]]] = {word: [] for word in counts}
        """Word to the texts that have it, by row, and what it adds to their likeness."""
        self._texts = [i for i, _ in texts]
        for number, (_, words) in enumerate(texts):
            idf = {word: math.log((1 + len(texts)) / (1 + counts[word])) + 1 for word in words}
            norm = math.sqrt(sum(value**2 for value in idf.values()))
            for word, value in idf.items():
                self.weights[word].append((number, value**2 / norm))

    def find(self, prompt: str, top: int) -> list[Row]:
        """The `top` rows and those as near as the last of them; none where no word is shared."""
        sums: dict[int, float] = defaultdict(float)
        for word in set(canonical_words(prompt)):
            for number, value in self.weights.get(word, ()):
                sums[number] += value
        best: dict[int, float] = {}
        for number, value in sums.items():
            row = self._texts[number]
            best[row] = max(best.get(row, 0.0), value)
        if not best:
            return []
        last = sorted(best.values(), reverse=True)[:top][-1]
        return [self.rows[i] for i in sorted(best) if best[i] >= last]


class Meaning:
    """P_sem: how near a word is to the forbidden phrases."""

    def __init__(self, embed: Embed, phrases: Sequence[str], background: Sequence[str]):
        self.embed = embed
        self.vectors = embed(phrases)  # [phrases, dimensions]
        self.similarity = lru_cache(65536)(self._similarity)
        self.mean = float(np.mean([self.similarity(word) for word in background])) if background else 0.0
        """s0"""

    def _similarity(self, word: str) -> float:
        return float((self.vectors @ self.embed([word])[0]).max())

    def cost(self, word: str, settings: GUARD) -> float:
        """Nats for a finished word; none for a stop word."""
        if not word or word in STOP_WORDS:
            return 0.0
        near = self.similarity(word)
        return math.inf if near >= settings.delta else settings.penalty * max(0.0, near - self.mean)


class Restriction:
    """The rule for one set of phrases: what the model layer asks of it, token by token."""

    def __init__(self, settings: GUARD, written: WrittenPhrases, meaning: Meaning | None):
        self.settings, self.written, self.meaning = settings, written, meaning
        self._known: dict[State, Penalties | None] = {}

    def start(self, text: str) -> State:
        return self.written.start(text)

    def advance(self, state: State, token: int) -> State:
        return self.written.advance(state, token)

    def continues(self, token: int) -> bool:
        return self.written.continues(token)

    def violation(self, before: str, ids: Sequence[int]) -> tuple[int, int] | None:
        return self.written.violation(before, ids)

    def penalties(self, state: State) -> Penalties | None:
        key = self.written.key(state)
        if key not in self._known:
            self._known[key] = self._completing(state)
        cost = self.meaning.cost(state.unfinished, self.settings) if self.meaning else 0.0
        return self._with_closing(self._known[key], cost) if cost else self._known[key]

    def _completing(self, state: State) -> Penalties | None:
        """P_tok: the tokens that complete a phrase."""
        import torch

        from expunge.models.restricted import never

        tokens = self.written.completing(state)
        inside = [i for i in tokens if state.unfinished and self.written.continues(i)]
        return never(tokens)._replace(halving=torch.tensor(inside, dtype=torch.int64)) if tokens else None

    def _with_closing(self, found: Penalties | None, cost: float) -> Penalties:
        """P_sem of the word that stands: every token that would end it costs that much."""
        import torch

        from expunge.models.restricted import Penalties, never

        found = found or never([])
        closing = torch.tensor(self.written.vocabulary.closing)
        return Penalties(
            torch.cat([found.ids, closing]),
            torch.cat([found.nats, torch.full((len(closing),), cost)]),
            torch.cat([found.halving, closing]) if math.isinf(cost) else found.halving,
        )
