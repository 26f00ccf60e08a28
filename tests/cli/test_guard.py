"""`expunge guard` as a person meets it: fitting, showing without a model, testing on prompts and on many rewrites."""

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from expunge.attacks._rewrites import REWRITES
from expunge.benchmarks.pocket import Pocket
from expunge.cli import app
from expunge.errors import ConfigError, DataError, ModelError


def guard(*arguments):
    return CliRunner().invoke(app, ["guard", *map(str, arguments)], env={"COLUMNS": "200"})


def done(*arguments):
    found = guard(*arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.stdout


def refused(kind, *arguments):
    found = guard(*arguments)
    assert isinstance(found.exception, kind), (found.output, found.exception)
    return str(found.exception)


@pytest.fixture(scope="module")
def files(tiny_world):
    return ["--forget", tiny_world / "forget.jsonl", "--retain", tiny_world / "retain.jsonl"]


@pytest.fixture(scope="module")
def fitted(tiny_world, files, tmp_path_factory):
    """The default detector before a fixed answer."""
    out = tmp_path_factory.mktemp("guard") / "run"
    made = done(
        "fit", tiny_world / "target", *files, "--method", "refuse", "--out", out, "--device", "cpu", "--json"
    )
    manifest = json.loads(made)
    assert (manifest["kind"], manifest["claim"], manifest["recipe"]["detector"]["name"]) == (
        "guard",
        "suppression",
        "union",
    )
    return out


@pytest.fixture(scope="module")
def asked(tiny_world):
    """A question that is in scope, and one that is not."""
    tasks = Pocket.open(tiny_world).tasks()
    return tasks["forget"][0].question, tasks["retain"][0].question


def test_fit_makes_the_run_that_unlearn_makes(fitted, tiny_world, files, tmp_path):
    out = tmp_path / "run"
    arguments = [
        tiny_world / "target",
        *files,
        "--method",
        "refuse",
        "--out",
        out,
        "--device",
        "cpu",
        "--json",
    ]
    found = CliRunner().invoke(app, ["unlearn", *map(str, arguments)])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["inputs"] == json.loads((fitted / "manifest.json").read_text())["inputs"]
    assert (out / "guard" / "guard.json").read_bytes() == (fitted / "guard" / "guard.json").read_bytes()


def test_fit_sends_training_methods_to_unlearn(files, tmp_path):
    said = refused(ConfigError, "fit", "model", *files, "--method", "npo+nll", "--out", tmp_path / "run")
    assert "'npo+nll' is no guard: it changes the weights. Use `expunge unlearn`" in said
    assert "no guard" in refused(
        ConfigError, "fit", "model", *files, "--recipe", "pocket-rocr", "--out", tmp_path / "run"
    )
    assert "give either --method or --recipe" in refused(
        ConfigError, "fit", "model", *files, "--out", tmp_path / "run"
    )


def test_show_tells_what_is_in_a_guard(fitted, tiny_world):
    said = done("show", fitted)
    for part in (
        "a guard by refuse",
        "Nothing is erased.",
        "Detector: union",
        "  part aliases",
        "  part ngram (regularisation=100)",
        "for misses and for false alarms. On prompts",
        "Action: refuse (text=I do not know.)",
        f"Base model: {tiny_world / 'target'}",
        "holds the target's names",
    ):
        assert part in said, part
    facts = json.loads(done("show", fitted, "--json"))
    manifest = json.loads((fitted / "manifest.json").read_text())
    assert facts["base"] == manifest["base"]
    assert facts["detector"]["calibration"] == manifest["guard"]["calibration"]
    assert [part["name"] for part in facts["detector"]["parts"]] == ["aliases", "ngram"]
    assert facts["bytes"] == sum(path.stat().st_size for path in (fitted / "guard").iterdir())


def test_show_loads_neither_torch_nor_the_model(fitted, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(fitted, alone)
    manifest = json.loads((alone / "manifest.json").read_text())
    manifest["base"]["name"] = "a model that is not there"
    (alone / "manifest.json").write_text(json.dumps(manifest))
    code = (
        "import sys; from typer.testing import CliRunner; from expunge.cli import app;"
        f"found = CliRunner().invoke(app, ['guard', 'show', {str(alone)!r}]);"
        "print(found.exit_code, 'a model that is not there' in found.stdout, [m for m in ('torch', 'transformers', 'sklearn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0 True []"


def test_a_prompt_is_decided_and_answered_only_when_asked(fitted, asked):
    inside, outside = asked
    found = json.loads(
        done("test", fitted, "--prompt", inside, "--prompt", outside, "--device", "cpu", "--json")
    )
    seen, other = found["decisions"]
    assert (seen["in_scope"], other["in_scope"], found["table"]) == (True, False, [])
    assert seen["score"] >= seen["threshold"] > other["score"]
    assert seen["parts"]["aliases"]["in_scope"]
    assert not any(part["in_scope"] for part in other["parts"].values())
    assert "plain" not in seen
    found = json.loads(
        done("test", fitted, "--prompt", inside, "--prompt", outside, "--answer", "--device", "cpu", "--json")
    )
    seen, other = found["decisions"]
    assert seen["guarded"] == "I do not know."
    assert seen["plain"] != seen["guarded"]
    assert other["plain"] == other["guarded"]
    said = done("test", fitted, "--prompt", inside, "--answer", "--device", "cpu")
    assert f"{inside}\n  in scope: score" in said
    assert "aliases: " in said
    assert ", saw it" in said
    assert "guarded: I do not know." in said


def test_files_are_rewritten_in_every_way(fitted, tiny_world, tmp_path):
    few = []
    for name in ("forget", "retain"):
        lines = (tiny_world / f"{name}.jsonl").read_text().splitlines()[:4]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        few += [f"--{name}", tmp_path / f"{name}.jsonl"]
    table = json.loads(done("test", fitted, *few, "--device", "cpu", "--json"))["table"]
    assert {row["rewrite"] for row in table} == set(REWRITES)
    first = table[0]
    assert (first["rewrite"], first["rows"], first["n"], first["wrong"]) == ("as it is", "forget", 4, 0)
    assert all(row["n"] <= 4 or row["rows"] == "off-domain" for row in table)


def test_a_benchmark_gives_a_table_for_people_to_read(fitted, tiny_world, monkeypatch):
    kept = {name: REWRITES[name] for name in ("as it is", "typo", "alias")}
    monkeypatch.setattr("expunge.run.detection.REWRITES", kept)
    said = done("test", fitted, "--benchmark", "pocket", "--data", tiny_world, "--device", "cpu")
    n = len(Pocket.open(tiny_world).forget_probes())
    row = next(line for line in said.splitlines() if line.startswith("as it is"))
    assert f"0 of {n}" in row
    assert any(line.startswith("holdout") for line in said.splitlines())
    assert not any(line.startswith("alias") for line in said.splitlines()), "nobody here has one"
    assert "1.3 % needs 300" in said


def test_wrong_use_is_answered_with_what_to_type(fitted, tiny_world, tmp_path):
    assert "no manifest.json" in refused(ModelError, "show", tmp_path / "nowhere")
    assert "no manifest.json" in refused(ModelError, "test", tmp_path / "nowhere", "--prompt", "Who?")
    weights = tmp_path / "weights"
    shutil.copytree(fitted, weights)
    manifest = json.loads((weights / "manifest.json").read_text())
    (weights / "manifest.json").write_text(json.dumps({**manifest, "kind": "weights", "method": "npo"}))
    for verb in (["show", weights], ["test", weights, "--prompt", "Who?"]):
        assert "holds new weights made by npo, and no guard" in refused(ModelError, *verb)
    (weights / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(weights / "guard")
    assert "missing or broken" in refused(ModelError, "show", weights)
    assert "--prompt: it is empty" in refused(ConfigError, "test", fitted, "--prompt", "  ")
    assert "nothing to test" in refused(ConfigError, "test", fitted)
    assert "--answer answers the prompts" in refused(
        ConfigError, "test", fitted, "--answer", "--forget", tiny_world / "forget.jsonl"
    )
    assert "not both" in refused(
        ConfigError, "test", fitted, "--benchmark", "pocket", "--forget", tiny_world / "forget.jsonl"
    )
    assert "Add --forget FILE" in refused(
        ConfigError, "test", fitted, "--retain", tiny_world / "retain.jsonl"
    )
    assert "pocket needs --data" in refused(ConfigError, "test", fitted, "--benchmark", "pocket")
    assert "no such file" in refused(DataError, "test", fitted, "--forget", tmp_path / "none.jsonl")
