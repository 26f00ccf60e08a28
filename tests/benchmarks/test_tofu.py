"""TOFU: every value of the published logs, and what a reader is told about a bad one."""

import json
import math

import pytest

from expunge.benchmarks.tofu import Tofu, figures, log_figures, read_log
from expunge.data.dataset import Dataset
from expunge.errors import ConfigError, DataError

SETS = {"Retain": "retain", "Forget": "forget", "Real Authors": "real_authors", "Real World": "world_facts"}
COLUMNS = {
    "ROUGE": "rouge_l_recall",
    "Prob.": "probability",
    "Probability": "probability",
    "Truth Ratio": "truth_ratio",
}
LATER = {
    "prob": "probability_plain", "prob_w_options": "probability_with_options", "rougeL_recall": "rouge_l_recall",
    "truth_ratio_true_better": "truth_ratio_true_better", "truth_ratio_closer_to_1": "truth_ratio_closer_to_one",
    "truth_ratio_prob_mean": "truth_ratio_knowledge",
}  # fmt: skip


@pytest.fixture(scope="module")
def expected(shared_data):
    return json.loads((shared_data / "tofu_logs" / "expected.json").read_text())


@pytest.fixture(scope="module")
def logs(shared_data, expected):
    return {name: read_log(shared_data / "tofu_logs" / f"{name}.jsonl") for name in expected["runs"]}


@pytest.mark.parametrize(
    ("dialect", "key"), [("tofu", "aggregate_script"), ("tofu-paper", "arithmetic_mean_variant")]
)
def test_every_figure_of_the_authors_scripts_comes_out(logs, expected, dialect, key):
    for name, log in logs.items():
        found = log_figures(log, None)[dialect]
        for label, value in expected["runs"][name][key].items():
            if label == "Model Utility":
                figure = found["model_utility"]
            else:
                task = next(task for words, task in SETS.items() if words in label)
                figure = found[f"{task}/{next(c for words, c in COLUMNS.items() if words in label)}"]
            assert figure.value == pytest.approx(value, abs=1e-6), (name, label)


def test_every_figure_of_the_later_code_base_comes_out(logs, expected):
    for name, log in logs.items():
        found = log_figures(log, None)["openunlearning"]
        values = expected["runs"][name]["geometric_1e-10_variant"]
        assert found["model_utility"].value == pytest.approx(values["model_utility"], abs=1e-6)
        for task in SETS.values():
            for label, value in values[task].items():
                assert found[f"{task}/{LATER[label]}"].value == pytest.approx(value, abs=1e-6), (
                    name,
                    task,
                    label,
                )


def test_forget_quality_of_every_pair_comes_out(logs, expected):
    for pair in expected["forget_quality"]:
        for dialect in ("tofu", "openunlearning"):
            found = figures(logs[pair["model"]], logs[pair["retain_reference"]], dialect)
            assert found["forget_quality/log10_ks_p"].value == pytest.approx(
                math.log10(pair["p_value"]), abs=1e-6
            )
            assert found["forget_quality/ks_distance"].value == pytest.approx(pair["ks_statistic"], abs=1e-6)


def test_the_two_means_of_one_repository_differ_as_known(logs):
    log = logs["llama2-7b_full_wd0.01"]
    assert figures(log, None, "tofu")["model_utility"].value == pytest.approx(0.6227, abs=5e-5)
    assert figures(log, None, "tofu-paper")["model_utility"].value == pytest.approx(0.5859, abs=5e-5)


def test_without_a_gold_log_forget_quality_is_absent_with_the_reason(logs):
    found = figures(logs["llama2-7b_full_wd0"], None)["forget_quality/ks_p"]
    assert found.value is None
    assert "no gold model was given" in found.why


def test_a_gold_of_another_split_is_refused(logs):
    found = figures(logs["llama2-7b_full_wd0"], logs["llama2-7b_retain95_wd0"])["forget_quality/ks_p"]
    assert found.value is None
    assert "200 of them, here 300" in found.why


def test_every_figure_carries_n_and_means_carry_intervals(logs):
    found = figures(logs["llama2-7b_full_wd0"], logs["llama2-7b_retain90_wd0"])
    assert found["forget/probability"].n == 300
    assert found["real_authors/truth_ratio"].n == 100
    for figure in found.values():
        if figure.low is not None:
            assert figure.low <= figure.value <= figure.high


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task": "forget"}', "line 1: no field 'idx'"),
        ('{"task": "forget", "idx": 0, "avg_gt_loss": "x", "avg_para_loss": 1, "avg_pert_loss": [1], "rougeL_recall": 1}', "line 1: field 'avg_gt_loss' is 'x'"),
        ('{"task": "forget", "idx": 0, "avg_gt_loss": 1, "avg_para_loss": 1, "avg_pert_loss": [], "rougeL_recall": 1}', "expected a list of numbers"),
        ("", "has no rows"),
    ],
)  # fmt: skip
def test_a_bad_log_is_refused_by_line_and_field(tmp_path, line, message):
    (tmp_path / "log.jsonl").write_text(line + "\n" if line else "")
    with pytest.raises(DataError) as error:
        read_log(tmp_path / "log.jsonl")
    assert message in str(error.value)


def test_the_splits_are_tofus(shared_data):
    for split, forget, retain in (("forget01", 40, 3960), ("forget05", 200, 3800), ("forget10", 400, 3600)):
        data = Tofu(shared_data / "tofu", split).dataset()
        assert (len(data.forget), len(data.retain)) == (forget, retain)
        data.refuse_overlap()
        tasks = Tofu(shared_data / "tofu", split).tasks()
        assert [len(rows) for rows in tasks.values()] == [forget, 400, 100, 117]


def test_a_subset_keeps_whole_authors(shared_data):
    benchmark = Tofu(shared_data / "tofu", authors=20)
    data = benchmark.dataset()
    assert isinstance(data, Dataset)
    assert (len(data.forget), len(data.retain)) == (40, 360)
    assert {record.group for record in data.forget} == {"author 198", "author 199"}
    assert len(benchmark.tasks()["forget"]) == 40
    assert benchmark.of_half("select").forget_subjects() == {"author 198"}


def test_wrong_choices_are_refused_with_what_there_is(shared_data, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'forget05'"):
        Tofu(shared_data / "tofu", "forget5")
    with pytest.raises(ConfigError, match="no such dialect"):
        Tofu(shared_data / "tofu", dialect="paper")
    with pytest.raises(ConfigError, match="--authors 500"):
        Tofu(shared_data / "tofu", authors=500)
    with pytest.raises(DataError, match=r"no full.jsonl"):
        Tofu(tmp_path)
    with pytest.raises(DataError, match="no such folder, and no hub id"):
        Tofu(tmp_path / "missing" / "too" / "deep")


def test_refusals_are_tofus_hundred(shared_data):
    assert len(Tofu(shared_data / "tofu").refusals()) == 100
