"""One row a method: every generic check runs on each."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    method: str
    settings: dict[str, Any] = {}
    lowers: bool = True
    """Whether a few steps lower the log-probability of the forget answers (imitation only crowds them out)."""


CASES = (
    Case("ga"),
    Case("ga+nll"),
    Case("ga+kl"),
    Case("ga+wga"),
    Case("ga+satimp+nll"),
    Case("npo"),
    Case("npo+nll"),
    Case("npo+kl"),
    Case("npo+gru"),
    Case("npo+nll+gru"),
    Case("simnpo+nll"),
    Case("dpo+nll"),
    Case("imitate+nll", lowers=False),
    Case("ga+lora", {"adapter": {"rank": 4}}),
)
"""Objective, weighting, retain term, gradient rule and adapter: each value stands in at least one row."""
