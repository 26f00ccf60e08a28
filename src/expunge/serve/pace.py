"""How fast the model answers, so that a refusal takes as long as an answer would."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import median_low

KEPT = 64
"""Answers looked back on."""
NEAREST = 8
"""Of these, the ones whose prompts were about as long, and the newest where they were alike."""
STALL = 10.0
"""Times the longest wait of a usual answer: what takes longer, and more than a second, is no answer's own. The whole server stood still."""


class Pace:
    """The waiting times of one answer of late: no average, so that refusals vary as answers do, and a slow one is slow to its end.

    What held up a few answers once is not played again: those that come after do not wait for it either. What half of them wait for
    is usual.
    """

    def __init__(self, rng: random.Random | None = None):
        self._rng = rng or random.SystemRandom()
        self._answers: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=KEPT)

    def learn(self, prompt_tokens: int, waits: Sequence[float]) -> None:
        """So many seconds passed before each token of an answer."""
        if waits:
            self._answers.append((prompt_tokens, tuple(waits)))

    def waits(self, prompt_tokens: int) -> Iterator[float]:
        """Seconds before each token, without an end; 0 as long as nothing was learnt."""
        usual = self._without_stalls()
        near = sorted(usual, key=lambda seen: abs(seen[0] - prompt_tokens))[:NEAREST]
        waits = self._rng.choice(near)[1] if near else (0.0,)
        yield from waits
        while True:
            yield self._rng.choice(waits[1:] or (0.0,))

    def _without_stalls(self) -> list[tuple[int, tuple[float, ...]]]:
        """The newest first."""
        answers = list(reversed(self._answers))
        longest = [max(waits) for _, waits in answers]
        bearable = max(1.0, STALL * median_low(longest)) if longest else 0.0
        return [seen for seen, wait in zip(answers, longest, strict=True) if wait <= bearable]
