"""Figures of question-answer records: each trap of the field, on records whose numbers are set by hand."""

import numpy as np
import pytest

from expunge.benchmarks._benchmark import NO_GOLD, NO_TARGET
from expunge.benchmarks._qa import DIALECTS, Roles, Table, keep_half
from expunge.benchmarks._qa_figures import all_figures, quality_figures
from expunge.metrics import membership, overall, roc, truth_ratio
from expunge.metrics.forget_quality import forget_quality
from expunge.metrics.model_utility import harmonic_mean

ROLES = Roles("forget", "retain", "known", "lands")


def row(task, i, rng, gt=1.0, right=1.0, wrong=1.0, rouge=0.8, **more):
    """One record with losses around those given."""
    losses = rng.normal(0, 0.1, 5)
    gt_loss = max(0.01, gt + losses[0])
    return {
        "task": task, "idx": i, "subject": f"{task} {i // 4}", "reference": f"{task} answer {i}", "generation": "an answer",
        "avg_gt_loss": gt_loss, "avg_para_loss": right + losses[1], "avg_pert_loss": [wrong + x for x in losses[2:]],
        "rougeL_recall": rouge, "accurate": rouge > 0.5, "plausibility": 0.9, "es": 0.25, "em": 0.5,
        "mia_loss": -gt_loss, "mia_zlib": -gt_loss / (10 + i % 3), "mia_min_k_40": -gt_loss - 1, "mia_min_k++_40": -gt_loss,
        "mia_gradient_norm": None, **more,
    }  # fmt: skip


def records(seed=0, n=40, holdout=120, changes=None, **forget):
    """All tasks; `forget`: the losses of the forget rows; `changes`: those of other tasks."""
    rng = np.random.default_rng(seed)
    changes = changes or {}
    sizes = {"forget": n, "retain": n, "known": 24, "lands": 24, "holdout": holdout}
    plain = {"known": {"right": 0.5}, "lands": {"right": 0.5}, "retain": {"right": 0.5}}
    return [
        row(
            task, i, rng, **(forget if task == "forget" else {**plain.get(task, {}), **changes.get(task, {})})
        )
        for task, size in sizes.items()
        for i in range(size)
    ]


def table(rows, dialect="openunlearning"):
    return Table(rows, ROLES, DIALECTS[dialect])


GOLD = records(1)


@pytest.fixture(scope="module")
def known():
    """A model that still knows the forget rows."""
    return records(0, gt=0.05, right=0.2, wrong=2.0)


@pytest.fixture(scope="module")
def figures(known):
    return all_figures(table(known), table(GOLD), table(GOLD))


# --- TOFU's traps -----------------------------------------------------------------------------------------------------
def test_the_two_means_of_the_truth_ratio_differ_and_each_dialect_has_its_own(known):
    right = np.array([r["avg_para_loss"] for r in known if r["task"] == "forget"])
    wrong = np.array([r["avg_pert_loss"] for r in known if r["task"] == "forget"])
    for dialect, mean in (("tofu", "geometric"), ("tofu-paper", "arithmetic")):
        expected = truth_ratio.closer_to_one(truth_ratio.truth_ratio(right, wrong, mean))
        assert all_figures(table(known, dialect))["forget/truth_ratio"].value == pytest.approx(expected)
    assert all_figures(table(known, "tofu"))["forget/truth_ratio"] != all_figures(table(known, "tofu-paper"))["forget/truth_ratio"]  # fmt: skip


def test_tofus_dialect_counts_three_hundred_rows_and_the_later_one_all():
    """Rows beyond the cut are measured otherwise, so the two p-values cannot be the same."""
    ours, gold = ([r for r in records(seed, n=400) if r["task"] == "forget"] for seed in (0, 1))
    ours = [{**r, "avg_para_loss": r["avg_para_loss"] - 2 * (r["idx"] >= 300)} for r in ours]
    cut = quality_figures(table(ours, "tofu"), table(gold, "tofu"))
    every = quality_figures(table(ours), table(gold))
    assert (cut["forget_quality/ks_p"].n, every["forget_quality/ks_p"].n) == (300, 400)
    assert every["forget_quality/ks_p"].value < 1e-6
    assert cut["forget_quality/ks_p"].value > 0.05
    shuffled = list(np.random.default_rng(0).permutation(np.array(ours, dtype=object)))
    assert quality_figures(table(shuffled, "tofu"), table(gold, "tofu")) == cut, (
        "the first 300 by place, not by line"
    )


def test_tofus_cut_is_that_of_forget_and_retain_and_of_no_other_task():
    rows = [{**r, "task": task} for task in ("forget", "retain", "known") for r in records(n=400) if r["task"] == "retain"]  # fmt: skip
    for task, first in (("forget", 300), ("retain", 300), ("known", 400)):
        for dialect, n in (("tofu", first), ("tofu-paper", first), ("openunlearning", 400)):
            found = all_figures(table(rows, dialect))
            for name in ("probability", "truth_ratio", "rouge_l_recall", "accuracy"):
                assert found[f"{task}/{name}"].n == n, (dialect, task, name)


def test_intervals_resample_subjects_for_rows_of_one_subject_are_no_news():
    """The same rows twice: of eight subjects, who are known or not as a whole, and each on its own."""
    rng = np.random.default_rng(0)
    rows, gold = [], []
    for task, size in {"forget": 40, "retain": 40, "known": 24, "lands": 24, "holdout": 40}.items():
        for i in range(size):
            knows = (i // 5) % 2
            made = row(task, i, rng, gt=0.1 + knows, right=0.2 + 0.6 * knows, wrong=1.0, rouge=0.4 + 0.3 * knows, plausibility=0.5 + 0.4 * knows,
                       es=0.2 + 0.5 * knows, em=0.3 + 0.5 * knows, generation="a b c a b c" if knows else "a b c", subject=f"{task} {i // 5}")  # fmt: skip
            rows.append(made)
            gold.append(row(task, i, rng, gt=1.0, right=0.8))
    alone = [{**r, "subject": f"{r['task']} row {r['idx']}"} for r in rows]
    wide, narrow = (all_figures(table(side), table(gold), table(gold)) for side in (rows, alone))
    names = [f"{task}/{name}" for task in ("forget", "retain", "known") for name in ("probability", "truth_ratio", "rouge_l_recall", "accuracy")]  # fmt: skip
    names += [f"forget/{name}" for name in ("fluency", "distinct_bigrams", "extraction_strength", "exact_memorisation", "paraphrase_probability")]  # fmt: skip
    names += ["forget_quality/ks_distance", "forget_quality/cliffs_delta", "membership/loss", "membership/priv_leak", "membership/reference"]  # fmt: skip
    names += ["model_utility", "overall/memorisation", "overall/robust_utility"]
    for name in names:
        assert wide[name].value == narrow[name].value, name
        assert wide[name].high - wide[name].low > 1.3 * (narrow[name].high - narrow[name].low), name


def test_the_order_of_rows_does_not_matter_but_which_rows_does(known):
    gold = [r for r in GOLD if r["task"] == "forget"]
    ours = [r for r in known if r["task"] == "forget"]
    straight = quality_figures(table(ours), table(gold))
    assert quality_figures(table(ours), table(gold[::-1])) == straight
    other = [{**r, "reference": "of another split"} for r in gold]
    found = quality_figures(table(ours), table(other))["forget_quality/ks_p"]
    assert found.value is None, "as many rows, but not the same"
    assert "one split" in found.why
    fewer = quality_figures(table(ours), table(gold[:20]))["forget_quality/cliffs_delta"]
    assert "20 of them, here 40" in fewer.why


def test_without_a_gold_nothing_that_compares_has_a_number(known):
    found = all_figures(table(known))
    for name in ("forget_quality/ks_p", "forget_quality/log10_ks_p", "forget_quality/ks_distance", "forget_quality/cliffs_delta",
                 "membership/reference", "membership/priv_leak", "overall/privacy", "overall/score"):  # fmt: skip
        assert found[name].value is None, name
        assert found[name].why == NO_GOLD, name
    assert found["overall/robust_utility"].why == NO_TARGET
    assert found["overall/memorisation"].value is not None


def test_a_model_that_collapsed_may_pass_the_test_but_its_utility_is_zero_and_names_why():
    rows = records(2, changes={"retain": {"rouge": 0.0}})
    found = all_figures(table(rows), table(GOLD), table(GOLD))
    assert found["forget_quality/ks_p"].value > 0.05
    assert found["model_utility"].value == found["model_utility"].low == 0
    assert found["model_utility"].note == "0 because of retain/rouge_l_recall"
    assert found["overall/score"].value == 0
    assert found["overall/score"].note == "0 because of utility > model_utility > retain/rouge_l_recall"
    assert found["overall/robust_utility"].value == pytest.approx(8 / 9, abs=0.02)
    assert found["overall/worst_utility"].value == 0
    assert "least is left of retain/rouge_l_recall (0)" in found["overall/worst_utility"].note


def test_over_forgetting_fails_as_knowing_does_and_the_effect_says_which(figures):
    over = all_figures(table(records(3, gt=4, right=4.0, wrong=1.0)), table(GOLD))
    for found, sign, words in ((figures, -1, "better than"), (over, 1, "less than")):
        assert found["forget_quality/ks_p"].value < 1e-10
        assert found["forget_quality/cliffs_delta"].value == sign
        assert words in found["forget_quality/cliffs_delta"].note


def test_forty_rows_say_what_they_cannot_tell(figures):
    assert figures["forget_quality/ks_p"].note == "at n = 40 distances below 0.30 are not told from 0"


def test_the_effect_stands_beside_the_p_with_its_interval():
    rows = records(4, right=0.93)
    found = quality_figures(table(rows), table(GOLD))
    a, b = table(rows).ratios("forget"), table(GOLD).ratios("forget")
    expected = ((a[:, None] > b).sum() - (a[:, None] < b).sum()) / 1600
    delta = found["forget_quality/cliffs_delta"]
    assert delta.value == pytest.approx(expected)
    assert delta.low < delta.value < delta.high
    assert found["forget_quality/ks_p"].value == forget_quality(a, b).p


def test_a_row_without_likelihood_shifts_no_other_rows_options(known):
    """Where rows are dropped from one list and not from the other, each later row is compared with the options of its neighbour."""
    rows = records(5, n=400, holdout=4)
    known_rows = [{**r, "task": "known"} for r in rows if r["task"] == "forget"]
    before = table(known_rows).probabilities("known")
    known_rows[0] = {**known_rows[0], "avg_gt_loss": None}
    after = table(known_rows).probabilities("known")
    assert after[0] < 1e-9
    assert after[1:] == pytest.approx(before[1:])


def test_halves_do_not_depend_on_the_order_of_records(known):
    first = {r["subject"] for r in keep_half(known, "forget", "select") if r["task"] == "forget"}
    assert {
        r["subject"] for r in keep_half(known[::-1], "forget", "select") if r["task"] == "forget"
    } == first


# --- what is memorised --------------------------------------------------------------------------------------------------
def test_memorisation_is_composed_of_its_four_means(figures, known):
    rows = [r for r in known if r["task"] == "forget"]
    paraphrase = np.exp(-np.array([r["avg_para_loss"] for r in rows])).mean()
    knowledge = truth_ratio.knowledge(
        np.array([r["avg_para_loss"] for r in rows]), np.array([r["avg_pert_loss"] for r in rows]), 1e-10
    )
    assert figures["forget/extraction_strength"].value == 0.25
    assert figures["forget/exact_memorisation"].value == 0.5
    assert figures["forget/paraphrase_probability"].value == pytest.approx(paraphrase)
    expected = harmonic_mean([0.75, 0.5, 1 - paraphrase, 1 - knowledge])
    assert figures["overall/memorisation"].value == pytest.approx(expected)
    assert "1 - truth_ratio" in figures["overall/memorisation"].note


def test_records_of_a_log_that_lacks_a_field_have_no_such_figure_but_all_others(known):
    log = [{k: v for k, v in r.items() if k not in ("es", "em", "plausibility") and not k.startswith("mia_")} for r in known]  # fmt: skip
    found = all_figures(table(log), table(GOLD), table(GOLD))
    for name in (
        "forget/extraction_strength",
        "forget/exact_memorisation",
        "overall/memorisation",
        "overall/score",
    ):
        assert found[name].value is None, name
        assert "no field 'es'" in found[name].why, name
    assert found["membership/min_k_40"].value is None
    assert "no field 'mia_min_k_40'" in found["membership/min_k_40"].why
    assert found["overall/utility"].why == "no judge model scored the answers"
    assert found["forget/paraphrase_probability"].value is not None
    assert found["forget_quality/ks_p"].value is not None


def test_a_guard_without_likelihoods_has_every_figure_absent_with_its_reason(known):
    gone = (
        "avg_gt_loss",
        "avg_para_loss",
        "es",
        "em",
        "mia_loss",
        "mia_zlib",
        "mia_min_k_40",
        "mia_min_k++_40",
    )
    rows = [{**r, **dict.fromkeys(gone)} if r["task"] == "forget" else r for r in known]
    found = all_figures(table(rows), table(GOLD), table(GOLD))
    for name in ("forget/extraction_strength", "forget/paraphrase_probability", "membership/auc", "membership/reference",
                 "membership/priv_leak", "overall/memorisation", "overall/privacy", "overall/score", "forget_quality/ks_p"):  # fmt: skip
        assert found[name].value is None, name
        assert "no probability" in found[name].why, name
    assert found["overall/robust_utility"].value is not None, "what it keeps can be measured"


# --- membership -----------------------------------------------------------------------------------------------------------
def scores(rows, task, field):
    return np.array([r[field] for r in rows if r["task"] == task])


def test_membership_is_the_area_and_the_detection_of_each_attack(figures, known):
    for attack in ("loss", "zlib", "min_k_40", "min_k++_40"):
        a, b = (scores(known, task, f"mia_{attack}") for task in ("forget", "holdout"))
        assert figures[f"membership/{attack}"].value == membership.auc(a, b)
        for percent in (1, 5):
            found = figures[f"membership/{attack}_tpr_at_fpr_{percent}"]
            assert found.value == roc.tpr_at_fpr(a, b, percent / 100)
            assert found.low <= found.value <= found.high
    assert figures["membership/auc"] == figures["membership/loss"]


def test_the_reference_attack_takes_the_golds_likelihood_off(figures, known):
    a, b = (scores(known, t, "mia_loss") - scores(GOLD, t, "mia_loss") for t in ("forget", "holdout"))
    assert figures["membership/reference"].value == pytest.approx(membership.auc(a, b))


def test_priv_leak_is_beside_the_golds_own_area(figures, known):
    ours, golds = (
        membership.auc(scores(rows, "forget", "mia_min_k_40"), scores(rows, "holdout", "mia_min_k_40"))
        for rows in (known, GOLD)
    )
    assert figures["membership/priv_leak"].value == pytest.approx(100 * (golds - ours) / (1 - golds))
    assert all_figures(table(GOLD), table(GOLD))["membership/priv_leak"].value == 0


def test_a_gold_that_tells_all_apart_leaves_priv_leak_undefined(known):
    found = all_figures(table(known), table(records(0, gt=0.05)))["membership/priv_leak"]
    assert found.value is None
    assert "AUC 1" in found.why


def test_few_never_trained_rows_give_no_detection_at_one_per_cent(known):
    rows = [r for r in known if r["task"] != "holdout" or r["idx"] < 20]
    found = all_figures(table(rows))
    assert found["membership/loss_tpr_at_fpr_1"].value is None
    assert "at least 100" in found["membership/loss_tpr_at_fpr_1"].why
    assert found["membership/loss_tpr_at_fpr_5"].value is not None


def test_without_never_trained_rows_membership_is_absent_with_the_reason(known):
    rows = [r for r in known if r["task"] != "holdout"]
    found = all_figures(table(rows), table(GOLD), no_holdout="not in this folder")
    for name in ("membership/auc", "membership/priv_leak", "overall/privacy", "overall/score"):
        assert (found[name].value, found[name].why) == (None, "not in this folder"), name


def test_gradient_norms_are_a_figure_only_where_they_were_asked_for(known):
    assert "membership/gradient_norm" not in all_figures(table(known))
    asked = [{**r, "mia_gradient_norm": r["mia_loss"]} for r in known]
    assert all_figures(table(asked), gradients=True)["membership/gradient_norm"].value == 1
    guard = [{**r, "why_gradient": "the model gives no gradients"} for r in known]
    assert (
        all_figures(table(guard), gradients=True)["membership/gradient_norm"].why
        == "the model gives no gradients"
    )


# --- one score ------------------------------------------------------------------------------------------------------------
def test_the_overall_score_is_the_harmonic_mean_of_its_three(known, figures):
    privacy = {}
    for attack in ("loss", "zlib", "min_k_40", "min_k++_40"):
        ours, golds = (
            membership.auc(*(scores(rows, t, f"mia_{attack}") for t in ("forget", "holdout")))
            for rows in (known, GOLD)
        )
        privacy[attack] = overall.closeness(ours, golds)
    found = all_figures(table(records(6, gt=0.9)), table(GOLD))
    parts = [found[f"overall/{name}"].value for name in ("memorisation", "privacy", "utility")]
    assert found["overall/score"].value == pytest.approx(3 / sum(1 / x for x in parts))
    assert figures["overall/privacy"].value == pytest.approx(overall.harmonic(privacy).value, abs=1e-12)
    expected = harmonic_mean([found["model_utility"].value, 0.9])
    assert found["overall/utility"].value == pytest.approx(expected)
    assert found["overall/score"].low <= found["overall/score"].value <= found["overall/score"].high


def test_the_gold_has_all_privacy_and_keeps_its_own_utility():
    found = all_figures(table(GOLD), table(GOLD), table(GOLD))
    assert found["overall/privacy"].value == 1
    assert found["overall/robust_utility"].value == found["overall/worst_utility"].value == 1


def test_utility_is_kept_beside_the_target_and_beside_the_gold_where_there_is_none(known):
    target = records(7, changes={"known": {"rouge": 0.4}})
    beside_target = all_figures(table(known), table(GOLD), table(target))["overall/robust_utility"]
    beside_gold = all_figures(table(known), table(GOLD))["overall/robust_utility"]
    assert "beside the target" in beside_target.note
    assert "beside the gold" in beside_gold.note
    lands = [r for r in target if r["task"] != "lands"]
    assert "no task 'lands'" in all_figures(table(known), None, table(lands))["overall/robust_utility"].why
