"""How fast the model answers, so that a refusal takes as long as an answer would."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence

KEPT = 64
"""Answers looked back on."""
NEAREST = 8
"""Of these, the ones whose prompts were about as long."""


class Pace:
    """The waiting times of one answer of late: no average, so that refusals vary as answers do, and a slow one is slow to its end."""

    def __init__(self, rng: random.Random | None = None):
        self._rng = rng or random.SystemRandom()
        self._answers: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=KEPT)

    def learn(self, prompt_tokens: int, waits: Sequence[float]) -> None:
        """So many seconds passed before each token of an answer."""
        if waits:
            self._answers.append((prompt_tokens, tuple(waits)))

    def waits(self, prompt_tokens: int) -> Iterator[float]:
        """Seconds before each token, without an end; 0 as long as nothing was learnt."""
        near = sorted(self._answers, key=lambda seen: abs(seen[0] - prompt_tokens))[:NEAREST]
        waits = self._rng.choice(near)[1] if near else (0.0,)
        yield from waits
        while True:
            yield self._rng.choice(waits[1:] or (0.0,))
