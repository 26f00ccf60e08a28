"""Mixed load for half a minute, as `benchmarks/soak.py` lays it on for an hour."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from gateway import background, make_model
from served import fill, made_up_names, serving
from soak import SHARES, Load

pytestmark = pytest.mark.slow


def test_mixed_load_brings_no_error_but_declared_ones_and_no_memory_is_lost(tmp_path):
    make_model(tmp_path / "model", 64)
    names = made_up_names(200, np.random.default_rng(0))
    ledger = tmp_path / "soak.ledger"
    key = fill(ledger, names)
    retain = background(tmp_path / "retain.jsonl")
    with serving(str(tmp_path / "model"), ledger, key, "--retain", str(retain), threads=1) as served:
        asyncio.run(Load(served, names, 1).run(8, 8))  # what is kept for good is there afterwards
        before = served.mebibytes()
        load = Load(served, names, 0)
        asyncio.run(load.run(30, 8))
        assert load.errors == []
        assert {kind for kind, _ in load.counts} > set(SHARES) - {"big", "verify", "metrics"}, (
            "the rare ones may be missing"
        )
        assert sum(load.counts.values()) > 50
        assert served.mebibytes() < before + 40, load.report()
        page = served.metrics()
    assert page["expunge_canary_leaks_total"] == 0
    assert page["expunge_guard_failures_total"] == 0
