"""One row a method: every generic check runs on each."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    method: str
    settings: dict[str, Any] = {}
    lowers: bool = True
    """Whether a few steps lower the log-probability of the forget answers (imitation only crowds them out)."""
    knows: bool = False
    """Whether gradients are compared on a model that knows its rows: self-distillation on an ignorant one is a difference of
    almost equal distributions, and only rounding would be compared."""


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
    Case("ga+simimp"),
    Case("ga+tnpo"),
    Case("ga+wtnpo+nll"),
    Case("ga+key_tokens"),
    Case("ga+uniform"),
    Case("undial", knows=True),
    Case("undial+nll"),
    Case("ceu", knows=True),
    Case("ihl+nll"),
    Case("flatten+primal_dual", {"retain": {"limit": 0.5}}),
    Case("flat", {"objective": {"divergence": "kl"}}),
    Case("flat", {"objective": {"divergence": "tv"}}),
    Case("flat", {"objective": {"divergence": "js"}}),
    Case("flat", {"objective": {"divergence": "pearson"}}),
    Case("rmu", {"objective": {"layer": 1, "size": 2.0}}),
    Case(
        "rmu+embed+layers",
        {"objective": {"layer": 1, "size": 2.0}, "selection": {"patterns": ["layers.1.mlp.down_proj"]}},
        lowers=False,
    ),
    Case("rmu+nll", {"objective": {"layer": 0, "size": 2.0}}),
    Case("ga+layers", {"selection": {"patterns": ["mlp"]}}),
    Case("npo+nll+wagle", {"selection": {"share": 0.5}}),
    Case("npo+nll+gru+wagle", {"selection": {"share": 0.5}}),
    Case("ga+nll+snip", {"selection": {"share": 0.3}}),
    Case("ga+nll+codec", {"selection": {"samples": 100}}),
    Case("ga+magnitude", {"selection": {"share": 0.3}}),
    Case("ga+random", {"selection": {"share": 0.3}}),
    Case("ihl+nll+fila", {"adapter": {"rank": 4, "alpha": 8}}),
    Case("npo+nll+orthogonal", {"adapter": {"rank": 4}}),
    Case("ga+lora", {"adapter": {"rank": 4}}),
)
"""Objective, weighting, retain term, gradient rule, selection and adapter: each value stands in at least one row."""
ELSEWHERE = {"seuf": "tests/methods/test_seuf.py, on mixtures of experts: these rows run on a dense model"}
"""Values that no row can run, with the place of their own checks."""
