"""Folds: larger requests from the target, repeated ones each from the result before it, and nothing finished is done again."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from expunge.benchmarks.muse import Muse
from expunge.benchmarks.pocket import Pocket
from expunge.cli import app
from expunge.data.pocket.world import SIZES
from expunge.errors import ConfigError
from expunge.models.load import save_model
from expunge.recipes import recipe
from expunge.run import folds as folds_module
from expunge.run import unlearn
from expunge.run.bench import Models, bench_muse, each_epoch, make_artifact
from expunge.run.folds import refuse_protocol, run_folds
from expunge.run.trajectory import KnowledgeProbe, TrajectoryProbe, probe_of
from expunge.types import Generation, Score
from tests.benchmarks.test_muse import write
from tests.conftest import make_model

QUICK = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory):
    """Data, and two models with random weights that stand for target and gold."""
    root = tmp_path_factory.mktemp("muse")
    (root / "data").mkdir()
    write(root / "data")
    for name, spread in (("target", 0.2), ("gold", 0.1)):
        model = make_model(tokenizer, max_position_embeddings=512, initializer_range=spread)
        save_model(model, tokenizer, root / name)
    spec = ("muse", {"data": str(root / "data"), "chunk": 32})
    return spec, Models(str(root / "target"), str(root / "gold"))


def manifest(run):
    return json.loads((run / "manifest.json").read_text())


def result(out):
    return json.loads((out / "folds.json").read_text())


def test_scalability_forgets_nested_folds_each_from_the_target(world, tmp_path):
    spec, models = world
    out = tmp_path / "ga"
    run_folds(str(out), spec, models, recipe("ga", train=QUICK), "scalability")
    found = result(out)
    assert found["protocol"] == "scalability"
    assert [fold["fold"] for fold in found["folds"]] == [1, 2]
    sizes = [fold["forget_rows"] for fold in found["folds"]]
    assert sizes[0] < sizes[1]
    assert [manifest(out / f"fold{i}")["base"]["name"] for i in (1, 2)] == [models.target] * 2
    assert [manifest(out / f"fold{i}")["data"]["forget"] for i in (1, 2)] == sizes
    for fold in found["folds"]:
        assert fold["figures"]["retain/knowmem"]["value"] is not None
        assert fold["figures"]["privleak/min_k_40"]["n"] == 6
    assert found["beside"]["gold"]["figures"]["privleak/min_k_40"]["value"] == 0
    rows = pq.read_table(out / "folds.parquet").to_pylist()
    assert {row["fold"] for row in rows} == {1, 2}
    assert len(rows) == 2 * (1 + 2 + 2 + 9)


def test_sustainability_goes_on_from_the_result_before(world, tmp_path):
    spec, models = world
    out = tmp_path / "ga"
    run_folds(str(out), spec, models, recipe("ga", train=QUICK), "sustainability")
    first, second = manifest(out / "fold1"), manifest(out / "fold2")
    assert first["base"]["name"] == models.target
    assert second["base"]["name"] == str((out / "fold1").resolve())
    assert second["base"]["sha256"] == result(out)["folds"][0]["sha256"]


def test_what_is_finished_is_not_done_again(world, tmp_path, monkeypatch):
    spec, models = world
    out, made = tmp_path / "ga", recipe("ga", train=QUICK)

    def stops(*arguments, **options):
        if arguments[3].name == "fold2":
            raise KeyboardInterrupt
        return unlearn(*arguments, **options)

    monkeypatch.setattr(folds_module, "unlearn", stops)
    with pytest.raises(KeyboardInterrupt):
        run_folds(str(out), spec, models, made, "sustainability")
    assert not (out / "folds.json").exists()
    first = manifest(out / "fold1")
    monkeypatch.setattr(folds_module, "unlearn", unlearn)
    assert run_folds(str(out), spec, models, made, "sustainability") > 0
    assert manifest(out / "fold1") == first, "fold 1 was kept"
    monkeypatch.setattr(folds_module, "measure", lambda *_, **__: pytest.fail("measured for nothing"))
    assert run_folds(str(out), spec, models, made, "sustainability") == 0


def test_a_guard_is_fitted_anew_for_all_that_was_asked_so_far(world, tmp_path):
    spec, models = world
    out = tmp_path / "refuse"
    made = recipe("refuse", detector="ngram")
    run_folds(str(out), spec, models, made, "sustainability")
    sizes = [fold["forget_rows"] for fold in result(out)["folds"]]
    assert manifest(out / "fold2")["data"]["forget"] == sum(sizes)
    assert manifest(out / "fold2")["base"]["name"] == models.target


def test_an_adapter_is_refused_before_anything_is_trained(world, tmp_path):
    spec, models = world
    made = recipe("ga", adapter="lora", train=QUICK)
    with pytest.raises(ConfigError, match="holds no whole model"):
        run_folds(str(tmp_path / "lora"), spec, models, made, "sustainability")
    assert not (tmp_path / "lora").exists()
    refuse_protocol("scalability", {"lora": made})


def test_a_protocol_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'scalability'"):
        refuse_protocol("scalable", {})


def test_the_stop_rule_compares_knowledge_with_the_gold(world, lm, monkeypatch):
    spec, models = world
    probe = KnowledgeProbe(Muse(**spec[1]), models.gold)
    told = {"forget/knowmem": 30.0, "retain/knowmem": 50.0}
    monkeypatch.setattr(probe, "_figures", lambda model: told)
    monkeypatch.setitem(probe.__dict__, "_gold", {"forget/knowmem": 30.0})
    assert probe(lm, 1)["gold_reached"] is True, "as much as the gold is not more"
    told = {"forget/knowmem": 30.1, "retain/knowmem": 50.0}
    point = probe(lm, 2)
    assert point["gold_reached"] is False
    assert point["utility"] == 50


def test_the_stop_rule_of_a_question_answer_benchmark_compares_recall_with_the_gold(monkeypatch):
    class HalfTold:
        """Knows every other answer, and finds all of them equally likely."""

        capabilities = frozenset()

        def score(self, examples):
            return [Score(np.full(3, -1, np.float32), np.ones(3, bool)) for _ in examples]

        def generate(self, prompts, params):
            return [[Generation(answers[p.messages[0].content], 3, True)] for p in prompts]

    bench = Pocket(SIZES["tiny"], 0)
    probe = TrajectoryProbe(bench, None)
    asked = [row for rows in probe.tasks.values() for row in rows]
    answers = {row.question: row.answer if i % 2 else "nothing" for i, row in enumerate(asked)}
    records = probe._records(HalfTold())
    assert 0 < sum(row["rougeL_recall"] for row in records if row["task"] == "forget") < len(records)
    for change, reached in ((0, True), (0.01, True), (-0.01, False)):
        gold = [{**row, "rougeL_recall": row["rougeL_recall"] + change} for row in records]
        monkeypatch.setitem(probe.__dict__, "_gold_records", gold)
        assert probe(HalfTold(), 1)["gold_reached"] is reached, change
    monkeypatch.setitem(probe.__dict__, "_gold_records", None)
    assert probe(HalfTold(), 1)["gold_reached"] is None


def test_a_run_ends_at_the_first_epoch_that_knows_no_more_than_the_gold(world, tmp_path):
    spec, models = world
    made = recipe("ga", train={**QUICK, "epochs": 6, "select": "gold"})
    make_artifact(str(tmp_path / "run"), Muse(**spec[1]), models, made)
    found = manifest(tmp_path / "run")
    steps = -(-found["data"]["forget"] // 4)
    assert found["chosen_step"] == steps, "two models of random weights know equally little"
    assert found["steps"] == steps
    assert any("looking at the retrained model" in warning for warning in found["warnings"])
    trace = [json.loads(line) for line in (tmp_path / "run" / "trace.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in trace if "gold_reached" in entry] == [0, steps]


def test_without_a_gold_the_stop_rule_says_what_is_missing(world, tmp_path):
    spec, models = world
    made = each_epoch(recipe("ga", train={**QUICK, "select": "gold"}), 8)
    assert made.train.probe_every == 2
    bench = Muse(**spec[1])
    with pytest.raises(ConfigError, match="no retrained model was given"):
        unlearn(models.target, bench.dataset(), made, tmp_path / "run", probe=probe_of(bench, None))


def test_folds_run_every_epoch_whatever_the_stop_rule_says(world, tmp_path):
    spec, models = world
    out = tmp_path / "ga"
    run_folds(
        str(out), spec, models, recipe("ga", train={**QUICK, "epochs": 2, "select": "gold"}), "scalability"
    )
    steps = -(-result(out)["folds"][0]["forget_rows"] // 4)
    assert manifest(out / "fold1")["steps"] == 2 * steps


# --- the command line -----------------------------------------------------------------------------------------------------
def test_the_command_prints_a_table_fold_by_fold(world, tmp_path):
    (_, arguments), models = world
    given = ["bench", "muse", "--data", arguments["data"], "--set", "chunk=32", "--methods", "refuse+ngram",
             "--target", models.target, "--gold", models.gold, "--out", str(tmp_path)]  # fmt: skip
    shown = CliRunner().invoke(app, [*given, "--protocol", "scalability"])
    assert shown.exit_code == 0, shown.output
    for word in ("target", "gold", "refuse+ngram", "verbatim", "PrivLeak", "utility"):
        assert word in shown.stdout
    again = CliRunner().invoke(app, [*given, "--protocol", "scalability", "--json"])
    found = json.loads(again.stdout)
    assert [fold["fold"] for fold in found["results"]["refuse+ngram"]["folds"]] == [1, 2]


def test_a_target_without_a_gold_is_refused(world):
    (_, arguments), models = world
    with pytest.raises(ConfigError, match="go together"):
        bench_muse("runs", data=arguments["data"], target=models.target)
