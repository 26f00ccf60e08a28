"""Every pocket preset runs from the command line, and what it leaves is what it claims to be."""

import json

import pytest
from typer.testing import CliRunner

from expunge.cli import app
from expunge.recipes import RECIPES
from expunge.run import load
from expunge.types import GenerationParams, Prompt

SHORT = ["train.max_steps=3", "train.select=last", "train.probe_every=null"]
FEWER = {
    "undo": ["procedure.steps=3"],
    "unstar": ["procedure.rounds=2"],
    "dp2u": ["procedure.epochs=1", "train.max_steps=null", "train.epochs=2"],
    "lcodec": ["selection.samples=60", "selection.most=3"],
    "o3": ["action.requests=2"],
}
OTHER_WORLD = {"seuf"}
"""Presets that the dense world refuses; tests/methods/test_seuf.py runs them on mixtures."""
PRESETS = sorted(path.stem.removeprefix("pocket-") for path in RECIPES.glob("pocket-*.yaml"))


def unlearn(world, out, name, *more):
    trains = name not in ("rocr", "lcodec", "eco", "neutral", "refuse")
    settings = [*(SHORT if trains else []), *FEWER.get(name, [])]
    overrides = [part for setting in settings for part in ("--set", setting)]
    files = ["--forget", str(world / "forget.jsonl"), "--retain", str(world / "retain.jsonl")]
    return CliRunner().invoke(
        app,
        ["unlearn", str(world / "target"), *files, "--recipe", f"pocket-{name}", "--base", str(world / "base"),
         "--out", str(out), "--device", "cpu", "--json", *overrides, *more],
    )  # fmt: skip


def runs(world, out, name):
    found = unlearn(world, out, name)
    assert found.exit_code == 0, found.output
    manifest = json.loads(found.stdout)
    assert manifest["claim"] == {"retrain-half": "exact", "uld-assistant": "suppression"}.get(
        name, "suppression" if manifest["kind"] == "guard" else "approximate"
    )
    model = load(out)
    answer = model.generate([Prompt.ask("Where was anybody born?")], GenerationParams(max_new_tokens=4))
    assert isinstance(answer[0][0].text, str)
    return manifest


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("npo-gold", *OTHER_WORLD)])
def test_every_preset_runs_by_its_name(tiny_world, tmp_path, name):
    manifest = runs(tiny_world, tmp_path / "run", name)
    if name in ("o3-adapters", "npo-continual"):
        assert [stage["stage"] for stage in manifest["stages"]] == [f"request {i}" for i in (1, 2, 3)]
    if name == "dp2u":
        assert manifest["stages"][0]["privacy"]["epsilon"] == 8
        assert manifest["stages"][0]["privacy"]["person"]["rows"] > 1
    if name == "unstar":
        assert manifest["procedure"]["rounds"][0]["still_told"]
    if name == "lcodec":
        assert manifest["edit"]["loss_after"]["forget"] > manifest["edit"]["loss_before"]["forget"]
    if name == "uld-assistant":
        assert "no unlearned model" in manifest["warnings"][0]


def test_muses_stop_rule_looks_at_the_retrained_model_and_says_so(tiny_world, tmp_path):
    found = unlearn(
        tiny_world, tmp_path / "run", "npo-gold", "--set", "train.probe_every=1", "--set", "train.select=gold",
        "--benchmark", "pocket", "--data", str(tiny_world),
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "looking at the retrained model" in json.loads(found.stdout)["warnings"][0]


def test_experts_are_refused_on_a_dense_model_before_anything_is_made(tiny_world, tmp_path):
    found = unlearn(tiny_world, tmp_path / "run", "seuf")
    assert "this model (LlamaForCausalLM) is dense" in str(found.exception)
    assert not (tmp_path / "run").exists()


def test_nobody_to_write_alternates_is_said_with_the_row(tiny_world, tmp_path):
    found = unlearn(tiny_world, tmp_path / "run", "altpo", "--writer", "none")
    assert "alternates missing: forget row" in str(found.exception)
    assert "--writer borrow" in str(found.exception)
