"""Records and figures of question-answer benchmarks: measured once, honest about what cannot be measured."""

import numpy as np
import pytest

from expunge.benchmarks._asks import ask
from expunge.benchmarks._qa import (
    DIALECTS,
    Roles,
    Table,
    asks_of,
    judge_answers,
    keep_half,
    level_of,
    measure,
    rows_of,
)
from expunge.benchmarks._qa_figures import all_figures, quality_figures, task_figures
from expunge.benchmarks.pocket import Pocket
from expunge.benchmarks.tofu import log_figures
from expunge.data.pocket.world import SIZES, WorldSettings
from expunge.errors import CapabilityError, DataError, ModelError
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


class Halting(Counting):
    """Answers of four tokens and an end token; the first token and the end are wrong."""

    def score(self, examples):
        logp = np.array([-3.0, -1.0, -1.0, -1.0, -9.0], dtype=np.float32)
        return [Score(logp, np.array([0, 1, 1, 1, 0], bool), z=logp / 2) for _ in examples]


def test_the_end_token_counts_in_the_loss_and_not_in_what_is_memorised():
    """P takes all five tokens, -15 / 5; extraction and exact memorisation the four before the end, of which three are right at the end."""
    (record,) = measure(Halting(), {"forget": probes(1)}, max_new_tokens=8)
    assert record["avg_gt_loss"] == 3.0
    assert record["es"] == record["em"] == 0.75
    assert record["mia_loss"] == -3.0
    assert record["mia_min_k_40"] == -3.0, (
        "of four tokens one: the first; with the end it would be (-9 - 3) / 2"
    )
    assert record["mia_min_k++_40"] == -1.5


def test_an_endpoint_has_answers_and_nothing_that_needs_likelihoods():
    class Endpoint(Counting):
        def score(self, examples):
            raise CapabilityError("an endpoint gives no likelihoods")

    (record,) = measure(Endpoint(), {"forget": probes(1)}, max_new_tokens=8)
    assert record["why"] == "an endpoint gives no likelihoods"
    assert record["accurate"] is True
    for field in ("es", "em", "mia_loss", "mia_zlib", "mia_min_k_40", "mia_min_k++_40", "avg_gt_loss"):
        assert record[field] is None, field


def test_gradient_norms_are_asked_for_where_they_are_wanted_and_a_model_without_says_why():
    tasks = {"forget": probes(2), "retain": probes(3, "r"), "holdout": probes(2, "h")}
    assert asks_of(tasks, 8).gradients == []
    asks = asks_of(tasks, 8, ("forget", "holdout"))
    assert [example.id for example in asks.gradients] == ["q0", "q1", "h0", "h1"]
    rows = rows_of(tasks, 8, ask(Counting(), asks))
    assert rows[0]["mia_gradient_norm"] is None
    assert "gives no gradients" in rows[0]["why_gradient"]


def test_measuring_leaves_the_tokenizer_as_it_was_and_every_attack_comes_out_of_a_real_model(lm):
    before = lm.tokenizer.padding_side
    tasks = {"forget": probes(3), "holdout": probes(3, "h")}
    rows = rows_of(tasks, 8, ask(lm, asks_of(tasks, 8, ("forget", "holdout"))))
    assert lm.tokenizer.padding_side == before
    for field in ("mia_loss", "mia_zlib", "mia_min_k_40", "mia_min_k++_40", "mia_gradient_norm"):
        assert all(isinstance(row[field], float) for row in rows), field
    assert all(row["mia_gradient_norm"] < 0 for row in rows)
    assert all(row["mia_loss"] == -row["avg_gt_loss"] for row in rows)
    assert [row["mia_loss"] > row["mia_min_k_40"] for row in rows] == [True] * 6


# --- what is no number -------------------------------------------------------------------------------------------------
class Broken(Counting):
    """Its log-probabilities of some answers are no numbers; the others are as they should be."""

    def __init__(self, number=np.nan, where=lambda example: True):
        super().__init__()
        self.number, self.where = number, where

    def score(self, examples):
        found = super().score(examples)
        for score, example in zip(found, examples, strict=True):
            if self.where(example):
                score.token_logprobs[1] = self.number
        return found


def five(n=4):
    return {task: probes(n, task) for task in (*ROLES, "holdout")}


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_model_whose_likelihoods_are_no_numbers_has_no_figure_that_needs_them(number):
    """As numbers they were a truth ratio of 1 and memberships of 0.5: the best that there is."""
    good, bad = (
        Table(measure(model, five(), max_new_tokens=8), ROLES, DIALECT)
        for model in (Counting(), Broken(number))
    )
    record = bad.tasks["forget"][0]
    for field in ("avg_gt_loss", "avg_para_loss", "es", "em", "mia_loss", "mia_min_k_40"):
        assert record[field] is None, field
    found = all_figures(bad, good, good)
    for name in ("forget/probability", "forget/truth_ratio", "forget/extraction_strength", "forget/exact_memorisation", "forget_quality/ks_p",
                 "membership/auc", "membership/min_k_40", "model_utility", "overall/memorisation", "overall/robust_utility"):  # fmt: skip
        assert found[name].value is None, name
        assert found[name].why == "the model's log-probabilities are no numbers: it is broken", name
    assert found["forget/accuracy"].value == 1, "what is written can still be read"
    assert "the gold: the model's log-probabilities" in all_figures(good, bad)["forget_quality/ks_p"].why


@pytest.mark.parametrize("answer", ["He was a baker.", "A baker.", "A miner."])
def test_one_answer_of_very_many_is_enough_to_call_a_model_broken(answer):
    """A floored one counts as the floor; what is no number counts as nothing."""
    one = Broken(where=lambda example: (example.id, example.answer) == ("q150", answer))
    table = Table(measure(one, {"forget": probes(200)}, max_new_tokens=8), ROLES, DIALECT)
    found = task_figures(table, "forget")
    assert "no numbers" in found["forget/truth_ratio"].why
    with pytest.raises(ModelError, match="no numbers"):
        level_of(table)


def test_gradients_that_are_no_numbers_make_the_attack_absent(monkeypatch):
    monkeypatch.setattr("expunge.models.gradients.gradient_norms", lambda model, batch: [np.nan] * len(batch))
    model = Counting()
    model.capabilities = frozenset({"gradients"})
    rows = rows_of(five(), 8, ask(model, asks_of(five(), 8, ("forget", "holdout"))))
    found = all_figures(Table(rows, ROLES, DIALECT), gradients=True)
    assert found["membership/gradient_norm"].value is None
    assert "no numbers" in found["membership/gradient_norm"].why
    assert found["membership/loss"].value == 0.5


@pytest.mark.parametrize(
    ("field", "value"), [("avg_gt_loss", np.nan), ("avg_pert_loss", [1.0, np.inf]), ("rougeL_recall", np.nan)]
)
def test_records_with_what_is_no_number_are_refused_by_row_and_field(field, value):
    rows = measure(Counting(), {"forget": probes(3)}, max_new_tokens=8)
    with pytest.raises(DataError, match=f"row 2 of task 'forget': field '{field}' has (nan|inf)"):
        log_figures([*rows[:2], {**rows[2], field: value}], None)


# --- what cannot be had ------------------------------------------------------------------------------------------------
def test_a_model_that_cannot_write_has_no_answers_that_are_wrong():
    class Silent(Counting):
        def generate(self, prompts, params):
            raise CapabilityError("this model only scores")

    rows = judge_answers(measure(Silent(), five(), max_new_tokens=8), Counting(), ("forget",))
    for field in ("generation", "rouge1_recall", "rougeL_recall", "accurate", "plausibility"):
        assert rows[0][field] is None, field
    found = all_figures(Table(rows, ROLES, DIALECT), Table(rows, ROLES, DIALECT))
    for name in ("forget/rouge_l_recall", "forget/accuracy", "model_utility", "forget/fluency", "forget/distinct_bigrams", "overall/utility"):  # fmt: skip
        assert found[name].value is None, name
        assert found[name].why == "this model only scores", name
    assert found["forget/probability"].value == pytest.approx(np.exp(-1))


def test_a_gold_without_likelihoods_judges_nothing_and_says_so():
    class Endpoint(Counting):
        def score(self, examples):
            raise CapabilityError("an endpoint gives no likelihoods")

    written = measure(Counting(), five(), max_new_tokens=8)
    for judge, why in (
        (Endpoint(), "the gold gives no likelihoods"),
        (Broken(), "the gold: the model's log-probabilities are no numbers: it is broken"),
    ):
        table = Table(judge_answers(written, judge, ("forget",)), ROLES, DIALECT)
        assert {row["plausibility"] for row in table.tasks["forget"]} == {None}
        found = all_figures(table, table)
        for name in ("forget/fluency", "overall/utility", "overall/score"):
            assert found[name].value is None, name
        assert found["forget/fluency"].why == found["overall/utility"].why == why
        assert found["model_utility"].value is not None


# --- continual forgetting ---------------------------------------------------------------------------------------------
def test_folds_are_nested_for_scalability_and_disjoint_for_sustainability():
    """Five people in four parts: one, one, two at the place where halves round, one; all 20 rows in the end."""
    benchmark = Pocket(SIZES["tiny"], 0)
    whole = benchmark.dataset()
    nested, parts = benchmark.folds("scalability"), benchmark.folds("sustainability")
    people = [{row.group for row in fold.forget} for fold in parts]
    assert [len(some) for some in people] == [1, 1, 2, 1]
    assert set.union(*people) == {row.group for row in whole.forget}
    assert [row for fold in parts for row in fold.forget] == list(whole.forget)
    for i, fold in enumerate(nested):
        assert list(fold.forget) == [row for part in parts[: i + 1] for row in part.forget]
    for fold in (*nested, *parts):
        assert fold.retain == whole.retain
        assert fold.holdout == whole.holdout


def test_fewer_subjects_than_four_give_as_many_folds_as_subjects():
    few = WorldSettings(**{**SIZES["tiny"].model_dump(), "forget": 2})
    for kind in ("scalability", "sustainability"):
        folds = Pocket(few, 0).folds(kind)
        assert len(folds) == 2
        assert len({row.group for row in folds[0].forget}) == 1


def test_pocket_asks_for_gradients_as_an_option_that_its_settings_name():
    plain, more = Pocket(SIZES["tiny"], 0), Pocket(SIZES["tiny"], 0, gradients=True)
    assert not plain.asks().gradients
    assert len(more.asks().gradients) == 40
    assert plain.settings != more.settings
    assert more.of_half("select").gradients
