"""Re-entry: does a response come back to what an intervention had steered it away from? (ST²U, 2026)

    re-entry = there are t0 < t1 after the intervention with score(t0) ≤ τ < score(t1) in the same response, and a second check confirms it

A score is a detector's on the running text, higher = nearer to what is to be forgotten; the second check is usually that the answer leaks.
The share is of all responses, so a response without an intervention counts as none. Range [0, 1]; lower is better. Read it beside the number
of interventions: a guard that never steps in re-enters nothing. Interval: Wilson's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from expunge.metrics.intervals import wilson

VERSION = 1


class Response(NamedTuple):
    scores: np.ndarray
    """[steps] the detector's score after each step."""
    intervened: int | None
    """The step of the (first) intervention; None where there was none."""
    confirmed: bool
    """Whether a second check finds what was to be forgotten in the response."""


class ReEntry(NamedTuple):
    share: float
    n: int
    low: float
    high: float
    intervened: int
    """Responses with an intervention."""


def re_enters(response: Response, tau: float) -> bool:
    """Whether one response does."""
    if response.intervened is None or not response.confirmed:
        return False
    after = np.asarray(response.scores)[response.intervened + 1 :]
    low = np.flatnonzero(after <= tau)
    return bool(len(low) and (after[low[0] :] > tau).any())


def re_entry(responses: Sequence[Response], tau: float) -> ReEntry:
    """The share of [n] responses. Raises ValueError without any."""
    if not responses:
        raise ValueError("there are no responses")
    hits, n = sum(re_enters(response, tau) for response in responses), len(responses)
    return ReEntry(hits / n, n, *wilson(hits, n), sum(r.intervened is not None for r in responses))
