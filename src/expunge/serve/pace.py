"""How fast the model answers, so that a refusal takes as long as an answer would."""

from __future__ import annotations

import random
from collections import deque

KEPT = 64
"""Answers and gaps looked back on."""
NEAREST = 8
"""Of these, the ones whose prompts were about as long."""


class Pace:
    """Waiting times drawn from those of late: no average, so that refusals vary as answers do."""

    def __init__(self, rng: random.Random | None = None):
        self._rng = rng or random.SystemRandom()
        self._first: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self._gaps: deque[float] = deque(maxlen=KEPT)

    def learn_first(self, prompt_tokens: int, seconds: float) -> None:
        """An answer's first piece came so long after it was asked for."""
        self._first.append((prompt_tokens, seconds))

    def learn_gap(self, seconds: float) -> None:
        """The next token came so long after the one before."""
        self._gaps.append(seconds)

    def first(self, prompt_tokens: int) -> float:
        """Seconds; 0 as long as nothing was learnt."""
        near = sorted(self._first, key=lambda seen: abs(seen[0] - prompt_tokens))[:NEAREST]
        return self._rng.choice(near)[1] if near else 0.0

    def gap(self) -> float:
        """Seconds."""
        return self._rng.choice(self._gaps) if self._gaps else 0.0
