"""Slow runs of what a user does: a mixture of experts, TOFU from scratch on whole authors, and a bench that is run twice."""

import json

import pytest

from expunge.benchmarks.pocket import Pocket
from expunge.models.load import save_model
from expunge.run import measure
from expunge.run.bench import bench_pocket, bench_tofu
from expunge.run.build import build_pocket
from tests.conftest import make_model

pytestmark = pytest.mark.slow


def test_a_mixture_of_experts_learns_the_world_and_unlearns(tmp_path):
    page = bench_pocket(tmp_path / "runs", size="tiny", arch="moe", methods=("npo", "eco"))
    assert "npo" in page.read_text()
    world = build_pocket("tiny", 0, "moe")
    benchmark = Pocket.open(world, half="all")
    target = benchmark.figures(measure(world / "target", benchmark), None)
    assert target["forget/accuracy"].value >= 0.95
    config = json.loads((world / "target" / "config.json").read_text())
    assert config["model_type"] == "qwen3_moe"


def test_tofu_from_scratch_on_whole_authors(shared_data, tmp_path):
    page = bench_tofu(tmp_path / "runs", data=str(shared_data / "tofu"), authors=6, methods=("npo", "refuse"))
    assert page.is_file()
    result = json.loads((tmp_path / "runs" / "npo" / "evaluations" / "tofu.json").read_text())
    assert result["settings"]["authors"] == 6
    assert result["beside"]["target"]["forget/rouge_l_recall"]["value"] >= 0.95
    assert result["beside"]["gold"]["forget/rouge_l_recall"]["value"] <= 0.4
    assert (
        result["figures"]["forget/probability"]["value"]
        < result["beside"]["target"]["forget/probability"]["value"]
    )


def test_the_same_command_takes_an_existing_target_and_gold(shared_data, tmp_path, tokenizer):
    """As with a hub model: nothing is trained but the methods."""
    model = tmp_path / "model"
    save_model(make_model(tokenizer, max_position_embeddings=1024), tokenizer, model)
    data = str(shared_data / "tofu")
    page = bench_tofu(
        tmp_path / "runs", data=data, authors=4, target=str(model), gold=str(model), methods=("refuse",)
    )
    assert page.is_file()


def test_a_second_bench_reuses_everything(tmp_path):
    said = []
    for _ in range(2):
        said.append([])
        bench_pocket(tmp_path / "runs", size="tiny", methods=("npo", "refuse"), tell=said[-1].append)
    assert any("training" in line or "2 methods" in line for line in said[0])
    assert not any("training" in line for line in said[1])
    assert sum("done before" in line for line in said[1]) == 2


@pytest.mark.parametrize("protocol", ["scalability", "sustainability"])
def test_tofus_requests_grow_and_follow_one_another(tmp_path, protocol):
    """On the smoke-sized world: the same folds as TOFU's, by people."""
    out = bench_pocket(tmp_path / "runs", size="tiny", methods=("npo",), protocol=protocol)
    result = json.loads((out / "npo" / protocol / "folds.json").read_text())
    sizes = [fold["forget_rows"] for fold in result["folds"]]
    known = [fold["figures"]["forget/accuracy"]["value"] for fold in result["folds"]]
    assert (sizes == sorted(sizes)) == (protocol == "scalability")
    assert sum(sizes) == 20 if protocol == "sustainability" else sizes[-1] == 20
    assert known[-1] < known[0]
    assert {"target", "gold"} == result["beside"].keys()
