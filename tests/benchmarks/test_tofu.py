"""TOFU: every value of the published logs, and what a reader is told about a bad one."""

import json
import math
import re

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


def test_larger_splits_are_measured_on_those_of_their_authors_that_have_rewrites(shared_data):
    last = Tofu(shared_data / "tofu", "forget10").tasks()
    for split, authors in (("forget20", 40), ("forget30", 60), ("forget50", 100), ("forget90", 180)):
        benchmark = Tofu(shared_data / "tofu", split)
        data = benchmark.dataset()
        assert (len(data.forget), len(data.retain)) == (20 * authors, 4000 - 20 * authors)
        data.refuse_overlap()
        assert {row.group for row in data.forget} == {f"author {i}" for i in range(200 - authors, 200)}
        assert [row.group for row in data.forget] == sorted(
            (row.group for row in data.forget), key=lambda group: int(group.split()[1])
        )
        assert sum(bool(row.perturbed_answer) for row in data.forget) == 400
        assert benchmark.tasks() == last


def test_continual_forgetting_takes_the_authors_of_a_split_in_quarters(shared_data):
    benchmark = Tofu(shared_data / "tofu", "forget10")
    assert [len(fold.forget) for fold in benchmark.folds("scalability")] == [100, 200, 300, 400]
    parts = benchmark.folds("sustainability")
    assert [row.id for fold in parts for row in fold.forget] == [row.id for row in benchmark.dataset().forget]
    assert len(Tofu(shared_data / "tofu", "forget01").folds("sustainability")) == 2


def with_holdout(shared_data, folder, rows=40):
    for path in (shared_data / "tofu").glob("*.jsonl"):
        (folder / path.name).symlink_to(path)
    lines = [
        json.dumps({"question": f"Who is number {i}?", "answer": f"Number {i} is nobody."})
        for i in range(rows)
    ]
    (folder / "holdout01.jsonl").write_text("\n".join(lines))
    return folder


def test_never_trained_rows_are_read_where_the_folder_has_them(shared_data, tmp_path):
    folder = with_holdout(shared_data, tmp_path)
    benchmark = Tofu(folder, "forget01")
    assert [probe.answer for probe in benchmark.tasks()["holdout"]][:1] == ["Number 0 is nobody."]
    assert len({probe.subject for probe in benchmark.tasks()["holdout"]}) == 2
    assert len(benchmark.dataset().holdout) == 40
    assert "holdout" not in benchmark.probe_tasks()
    assert (
        Tofu(folder, "forget05").no_holdout == "TOFU's holdout split is not in this folder: holdout05.jsonl"
    )
    assert "forget20" in Tofu(folder, "forget20").no_holdout
    (tmp_path / "holdout01.jsonl").write_text('{"question": "Who?"}\n')
    with pytest.raises(DataError, match=r"holdout01.jsonl, line 1: no field 'answer'"):
        Tofu(folder, "forget01")


def test_a_stand_in_that_knows_the_forget_rows_alone_is_told_apart_by_every_attack(shared_data, tmp_path):
    """A whole evaluation without a model: forget answers are likely, all others are not."""
    import numpy as np

    from expunge.benchmarks._asks import ask
    from expunge.types import Generation, Score

    benchmark = Tofu(with_holdout(shared_data, tmp_path), "forget01")
    forget = {probe.question for probe in benchmark.tasks()["forget"]}

    class Parrot:
        capabilities = frozenset()

        def score(self, examples):
            sure = [-0.1 if example.prompt.messages[0].content in forget else -2.0 for example in examples]
            return [
                Score(np.full(5, x, np.float32), np.full(5, x > -1), z=np.full(5, x, np.float32))
                for x in sure
            ]

        def generate(self, prompts, params):
            return [[Generation("I do not know.", 5, True)] for _ in prompts]

    found = benchmark.figures(benchmark.rows(ask(Parrot(), benchmark.asks())))
    for name in ("auc", "loss", "zlib", "min_k_40", "min_k++_40", "loss_tpr_at_fpr_5"):
        assert found[f"membership/{name}"].value == 1, name
    assert found["forget/extraction_strength"].value == 1
    assert set(found) >= {name for name, _, _ in Tofu.columns}


def test_without_never_trained_rows_membership_says_so(shared_data):
    benchmark = Tofu(shared_data / "tofu", "forget01")
    assert "holdout" not in benchmark.tasks()
    assert benchmark.no_holdout == "TOFU's holdout split is not in this folder: holdout01.jsonl"


def test_settings_name_the_data_by_its_content_not_by_its_folder(shared_data, tmp_path):
    same = with_holdout(shared_data, tmp_path)
    plain = Tofu(shared_data / "tofu", "forget05").settings
    assert Tofu(same, "forget05").settings == plain
    assert Tofu(same, "forget01").settings["data"] != plain["data"]
    changed = (shared_data / "tofu" / "world_facts.jsonl").read_text().replace("Paris", "Lyon")
    (tmp_path / "world_facts.jsonl").unlink()
    (tmp_path / "world_facts.jsonl").write_text(changed)
    assert Tofu(same, "forget05").settings["data"] != plain["data"]


ROWS = ("full", "forget10_perturbed", "retain_perturbed", "real_authors", "world_facts")


def as_the_authors_have_them(shared_data):
    """Rows by configuration of the hub data set: nobody's `id` or `author`, and options one by one."""
    tables = {}
    for name in ROWS:
        lines = (shared_data / "tofu" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        config = name if name in ROWS[:3] else f"{name}_perturbed"
        tables[config] = [
            {field: x for field, x in json.loads(line).items() if field not in ("id", "author", "options")}
            for line in lines
        ]
    return tables


def assert_the_same(found, expected):
    assert found.tasks() == expected.tasks()
    assert found.dataset() == expected.dataset()
    assert {**found.settings, "data": ""} == {**expected.settings, "data": ""}


@pytest.mark.parametrize("split", ["forget10", "forget01", "forget90"])
def test_rows_without_id_and_author_have_them_from_their_places(shared_data, tmp_path, split):
    """The authors' own files, beside theirs without wrong answers, which nothing reads."""
    for config, rows in as_the_authors_have_them(shared_data).items():
        (tmp_path / f"{config}.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "real_authors.json").write_text('{"question": "Who?", "answer": "She."}\n')
    assert_the_same(Tofu(tmp_path, split), Tofu(shared_data / "tofu", split))


def test_the_hub_has_the_same_rows_as_the_folder(shared_data, monkeypatch):
    import datasets

    tables = as_the_authors_have_them(shared_data)

    def load(name, config, split):
        assert (name, split) == ("locuslab/TOFU", "train")
        return datasets.Dataset.from_list(tables[config])

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = Tofu("locuslab/TOFU", "forget05")
    assert_the_same(found, Tofu(shared_data / "tofu", "forget05"))
    assert found.tasks()["forget"][0].subject == "author 190"
    assert found.no_holdout == "TOFU's holdout split is not in this data set: holdout05"


def test_places_are_only_read_from_whole_files(shared_data, tmp_path):
    with_holdout(shared_data, tmp_path)
    rows = (tmp_path / "forget10_perturbed.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "forget10_perturbed.jsonl").unlink()
    (tmp_path / "forget10_perturbed.jsonl").write_text("\n".join(rows[200:]), encoding="utf-8")
    with pytest.raises(DataError, match="forget10_perturbed has 200 rows, TOFU has 400"):
        Tofu(tmp_path)


def test_a_row_without_a_field_is_named(shared_data, tmp_path):
    with_holdout(shared_data, tmp_path)
    (tmp_path / "world_facts.jsonl").unlink()
    (tmp_path / "world_facts.jsonl").write_text('{"question": "Which?", "answer": "This."}\n')
    with pytest.raises(DataError, match=r"world_facts.jsonl, line 1: no field 'perturbed_answer'"):
        Tofu(tmp_path)


def test_a_gold_log_of_another_split_or_size_is_refused_with_what_differs(logs):
    ours = logs["llama2-7b_full_wd0"]
    with pytest.raises(DataError, match="200 forget rows there, 300 here"):
        log_figures(ours, logs["llama2-7b_retain95_wd0"])
    fewer = [row for row in logs["llama2-7b_retain90_wd0"] if row["idx"] < 200]
    with pytest.raises(
        DataError, match="200 forget rows there, 300 here; 100 rows are in one of them alone, from row 200"
    ):
        log_figures(ours, fewer)
    other = [{**row, "reference": "Somebody else."} for row in logs["llama2-7b_retain90_wd0"]]
    with pytest.raises(DataError, match=r"300 forget rows there, 300 here; row 0 is 'Somebody else.' there"):
        log_figures(ours, other)


def test_a_published_log_lacks_token_wise_numbers_and_says_so(logs):
    found = log_figures(logs["llama2-7b_full_wd0"], logs["llama2-7b_retain90_wd0"])["openunlearning"]
    for name in (
        "forget/extraction_strength",
        "forget/exact_memorisation",
        "overall/memorisation",
        "overall/score",
    ):
        assert found[name].value is None, name
        assert "no field 'es'" in found[name].why, name
    assert found["membership/auc"].why == "the log has no rows of task 'holdout'"
    assert found["forget/paraphrase_probability"].value > 0.1
    assert found["forget_quality/cliffs_delta"].value < 0, "the full model knows more"
    assert found["overall/robust_utility"].value > 0.9


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
        Tofu(shared_data / "tofu", "forget_05")
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


GOOD = {
    "task": "forget",
    "idx": 0,
    "avg_gt_loss": 1.0,
    "avg_para_loss": 1.0,
    "avg_pert_loss": [1.0, 2.0],
    "rougeL_recall": 0.5,
}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"idx": 1, "avg_gt_loss": math.nan}, "line 2: a loss or ROUGE value is no number"),
        ({"idx": 1, "avg_pert_loss": [1.0, math.inf]}, "line 2: a loss or ROUGE value is no number"),
        ({}, "line 2: row 0 of task 'forget' stands in this log twice"),
        ({"idx": 1, "avg_pert_loss": [1.0]}, "line 2: 1 losses of wrong answers, where earlier rows of task 'forget' have 2"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_right_is_refused_by_line(tmp_path, second, message):
    rows = [GOOD, {**GOOD, **second}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=re.escape(message)):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [([], "expected a list of texts"), ([1, 2], "expected a list of texts"), (["a"], "1 wrong answers")],
)
def test_a_row_without_its_wrong_answers_is_refused_by_line(shared_data, tmp_path, wrong, message):
    for path in (shared_data / "tofu").glob("*.json*"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    lines = (tmp_path / "real_authors.jsonl").read_text(encoding="utf-8").splitlines()
    lines[6] = json.dumps({**json.loads(lines[6]), "perturbed_answer": wrong})
    (tmp_path / "real_authors.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=f"line 7: .*{message}"):
        Tofu(tmp_path)
