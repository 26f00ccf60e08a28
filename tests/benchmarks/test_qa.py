"""Records and figures of question-answer benchmarks: measured once, honest about what cannot be measured."""

import numpy as np
import pytest

from expunge.benchmarks._qa import (
    DIALECTS,
    Roles,
    Table,
    keep_half,
    level_of,
    measure,
    quality_figures,
    task_figures,
)
from expunge.types import Generation, Probe, Score

ROLES = Roles("forget", "retain", "known", "lands")
DIALECT = DIALECTS["openunlearning"]


class Counting:
    """A stand-in model that counts what it is asked and answers with fixed likelihoods."""

    capabilities = frozenset()

    def __init__(self, floored=0):
        self.scored, self.asked, self.floored = [], [], floored

    def score(self, examples):
        first = len(self.scored)
        self.scored += examples
        return [
            Score(np.full(4, -1.0, dtype=np.float32), np.ones(4, bool), floored=first + i < self.floored)
            for i, _ in enumerate(examples)
        ]

    def generate(self, prompts, params):
        self.asked += prompts
        return [[Generation("He was a baker.", 5, True)] for _ in prompts]


def probes(n, prefix="q"):
    return [
        Probe(
            f"{prefix}{i}",
            f"{prefix} {i}?",
            "He was a baker.",
            "",
            "A baker.",
            ("A judge.", "A miner."),
            f"person {i // 2}",
            "baker",
        )
        for i in range(n)
    ]


def test_each_distinct_text_is_scored_and_answered_once():
    model = Counting()
    rows = probes(4)
    records = measure(model, {"forget": rows, "retain": rows, "known": rows[:2]}, max_new_tokens=8)
    assert len(records) == 10
    assert len(model.scored) == len(set(model.scored)) == 4 * 4
    assert len(model.asked) == 4


def test_records_have_the_fields_of_the_published_logs():
    (record,) = measure(Counting(), {"forget": probes(1)}, max_new_tokens=8)
    assert record["avg_gt_loss"] == record["avg_para_loss"] == 1.0
    assert record["n_pert"] == [4, 4]
    assert record["rougeL_recall"] == 1
    assert record["accurate"] is True
    assert record["plausibility"] is None


def test_likelihoods_that_a_guard_does_not_have_are_not_applicable_with_the_reason():
    records = measure(Counting(floored=100), {"forget": probes(20)}, max_new_tokens=8)
    table = Table(records, ROLES, DIALECT)
    found = task_figures(table, "forget")
    assert found["forget/probability"].value is None
    assert "no probability" in found["forget/probability"].why
    assert found["forget/accuracy"].value == 1.0
    assert quality_figures(table, table)["forget_quality/ks_p"].value is None


def test_a_floored_answer_among_many_counts_as_the_floor():
    records = measure(Counting(floored=1), {"forget": probes(200)}, max_new_tokens=8)
    table = Table(records, ROLES, DIALECT)
    assert not table.why_no_likelihood("forget")
    assert np.isfinite(table.nll("forget")).all()
    assert table.nll("forget").max() == pytest.approx(27.63, abs=0.01)


def test_halves_part_people_not_rows():
    records = measure(Counting(), {"forget": probes(8), "retain": probes(4, "r")}, max_new_tokens=8)
    select, report = (keep_half(records, "forget", half) for half in ("select", "report"))
    people = [{r["subject"] for r in part if r["task"] == "forget"} for part in (select, report)]
    assert people == [{"person 0", "person 1"}, {"person 2", "person 3"}]
    assert sum(r["task"] == "retain" for r in select) == 4


def test_level_is_reached_when_right_answers_are_as_likely_as_wrong():
    def table(gap):
        rng = np.random.default_rng(0)
        rows = [
            {
                "task": "forget",
                "idx": i,
                "avg_gt_loss": 1.0,
                "avg_para_loss": 1.0,
                "avg_pert_loss": [1.0 + gap + e],
                "subject": "",
            }
            for i, e in enumerate(rng.normal(0, 0.1, 50))
        ]
        return Table(rows, ROLES, DIALECT)

    assert not level_of(table(0.5)).reached
    assert level_of(table(0.5)).gap == pytest.approx(0.5, abs=0.05)
    assert level_of(table(0.0)).reached
    assert not level_of(table(-0.5)).reached, "over-forgetting is not level either"
