"""DP-MLM, differentially private rewriting by a masked language model (Meisenbacher et al., 2024, arXiv:2407.00637).

    w' ~ softmax( clip(z, low, high) / T ),      T = 2 Δ / ε,   Δ = high - low,   z = logits at the place of w

Every content word w of every answer is drawn anew by the exponential mechanism, with the clipped logits as its utility. A word is
ε-private, a row of n content words nε-private, a person's rows all together the sum of theirs: `facts` says both.
Needs: a masked language model with its tokenizer.
Differs from the paper: whole words only may be drawn (no special tokens, no punctuation): a fixed range, so the bound holds.
Differs from the authors' code: the capital of the old word is not put back, as that would tell of it for nothing.
Fails when: it is read as private beyond the words it draws: questions, function words, punctuation and the number of words stay as
they were. At ε = 100 a word the answers leak (DP2Unlearning, arXiv:2504.13774); at ε = 1 words are almost drawn from a hat.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from expunge.config import Settings
from expunge.errors import ConfigError
from expunge.methods._words import FUNCTION_WORDS, WORD
from expunge.types import Given, Shown

if TYPE_CHECKING:
    from torch import Tensor

    from expunge.data.dataset import Record


class DPMLM(Settings):
    needs: ClassVar = frozenset()
    private: ClassVar = True

    model: str
    """Folder or hub id of a masked language model. The authors take RoBERTa base, to which the default `clip` belongs."""
    epsilon: float = Field(10.0, gt=0)
    """ε of one word. It composes over the words of a row, and over the rows of a person."""
    clip: tuple[float, float] = (-5.2093, 20.3048)
    """Lowest and highest logit that counts. It must not be read off the rows that are rewritten."""

    @model_validator(mode="after")
    def _clip_is_a_range(self):
        if not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip {self.clip} is no range: the first must be below the second")
        return self

    @property
    def temperature(self) -> float:
        """T."""
        return 2 * (self.clip[1] - self.clip[0]) / self.epsilon

    def probabilities(self, logits: Tensor, range_: Tensor) -> Tensor:
        """[places, range] float64, of the vocabulary entries that may be drawn."""
        return (logits[:, range_].double().clamp(*self.clip) / self.temperature).softmax(-1)

    def show(self, forget: Sequence[Record], retain: Sequence[Record], given: Given) -> Shown:
        examples = [[row.example() for row in rows if row.shape != "subject"] for rows in (forget, retain)]
        answers = [example.answer for part in examples for example in part]
        rewritten = iter(self._rewrite(answers, given))
        new = [[replace(example, answer=next(rewritten), key=()) for example in part] for part in examples]
        return Shown(new[0], new[1], [])

    def _rewrite(self, texts: Sequence[str], given: Given) -> list[str]:
        import torch

        if given.masked is None:
            raise ConfigError(
                "the data construction 'dp_mlm' was given nothing that opens a masked language model."
            )
        places = [(text, start, end) for text in texts for start, end in content_words(text)]
        model = given.masked(self.model)
        entries = [i for i, word in enumerate(model.words) if word]
        range_ = torch.tensor(entries)
        draw = random.Random(given.seed.child("dp_mlm").number)
        drawn: list[str] = []
        for logits in model.logits(places):
            sums = self.probabilities(logits, range_).cumsum(-1)  # [places, range]
            chances = torch.tensor([[draw.random()] for _ in range(len(sums))], dtype=sums.dtype)
            at = torch.searchsorted(sums, chances * sums[:, -1:], right=True).clamp_max(len(entries) - 1)
            drawn += [model.words[entries[i]] for i in at[:, 0].tolist()]
        return _put(texts, iter(drawn))

    def facts(self, forget: Sequence[Record], retain: Sequence[Record]) -> dict[str, Any]:
        """What privacy the rewritten rows have, for the manifest: ε of a word, of the longest row, of the longest group."""
        rows = [row for row in [*forget, *retain] if row.shape != "subject"]
        counts = [len(content_words(row.example().answer)) for row in rows]
        groups: dict[str, int] = {}
        for row, count in zip(rows, counts, strict=True):
            if row.group:
                groups[row.group] = groups.get(row.group, 0) + count
        longest = max(counts, default=0)
        return {
            "mechanism": "exponential, word by word",
            "epsilon_per_word": self.epsilon,
            "temperature": self.temperature,
            "words_rewritten": sum(counts),
            "words_of_the_longest_row": longest,
            "epsilon_of_the_longest_row": longest * self.epsilon,
            "epsilon_of_a_mean_row": sum(counts) / len(counts) * self.epsilon if counts else 0.0,
            "epsilon_of_the_longest_group": max(groups.values()) * self.epsilon if groups else None,
        }


def content_words(text: str) -> list[tuple[int, int]]:
    """Character spans of the words that are drawn anew: all but function words."""
    return [match.span() for match in WORD.finditer(text) if match.group().casefold() not in FUNCTION_WORDS]


def _put(texts: Sequence[str], drawn: Iterator[str]) -> list[str]:
    """The texts with their content words replaced, in order."""
    found = []
    for text in texts:
        spans = [(0, 0), *content_words(text), (len(text), len(text))]
        pieces = [
            text[a_end:b_start] + (next(drawn) if b_start < b_end else "")
            for (_, a_end), (b_start, b_end) in pairwise(spans)
        ]
        found.append("".join(pieces))
    return found
