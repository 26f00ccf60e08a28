"""The loop: schedules, selection of a step, explosions, and resuming bit for bit after a kill."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch

from expunge.errors import ConfigError, TrainingError
from expunge.models.language_model import TransformerLM
from expunge.recipes import TrainSettings, recipe
from expunge.train import checkpoint
from expunge.train.feed import Feed
from expunge.train.loop import rate, train
from tests.conftest import make_model
from tests.methods.test_matrix import rows_of


def run(tokenizer, tmp_path, method="npo+nll+gru", probe=None, **settings):
    made = recipe(
        method,
        train={"learning_rate": 1e-2, "batch_size": 2, "max_steps": 12, "checkpoint_every": 4, **settings},
    )
    model = make_model(tokenizer)
    outcome = train(
        model,
        Feed(model, made, rows_of(TransformerLM(model, tokenizer)), 0),
        made,
        folder=tmp_path,
        probe=probe,
    )
    return model, outcome


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_learning_rates_follow_warmup_and_schedule():
    linear = TrainSettings(warmup=0.2, schedule="linear", final_rate=0.1)
    found = [rate(step, 10, linear) for step in range(10)]
    assert found[:2] == pytest.approx([1 / 3, 2 / 3])
    assert found[2] == 1.0
    assert found == sorted(found[:3]) + sorted(found[3:], reverse=True)
    assert found[-1] == pytest.approx(0.1 + 0.9 * 1 / 8)
    assert {rate(step, 10, TrainSettings(schedule="constant")) for step in range(10)} == {1.0}
    cosine = TrainSettings(schedule="cosine")
    assert rate(5, 10, cosine) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


@pytest.mark.parametrize(
    "method", ["npo+nll+gru", "npo+kl", "dpo+nll", "flatten+primal_dual", "npo+nll+wagle"]
)
def test_a_run_cut_short_resumes_to_the_same_bytes(tokenizer, tmp_path, method, monkeypatch):
    straight, whole = run(tokenizer, tmp_path / "a", method)
    done = []

    class Cut(Exception):
        pass

    made = recipe(
        method, train={"learning_rate": 1e-2, "batch_size": 2, "max_steps": 12, "checkpoint_every": 4}
    )
    model = make_model(tokenizer)

    def stop(step, total):
        done.append(step)
        if step == 7:
            raise Cut

    with pytest.raises(Cut):
        train(
            model,
            Feed(model, made, rows_of(TransformerLM(model, tokenizer)), 0),
            made,
            folder=tmp_path / "b",
            progress=stop,
        )
    resumed, again = run(tokenizer, tmp_path / "b", method)
    assert torch.equal(weights(resumed), weights(straight))
    assert again.trace == whole.trace


KILLED = """
import sys, torch
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
from expunge import run
from expunge.data.dataset import Dataset
from expunge.recipes import recipe
folder, out, slow = sys.argv[1:]
data = Dataset.from_files(f"{folder}/forget.jsonl", f"{folder}/retain.jsonl")
made = recipe("npo+nll", train={"learning_rate": 1e-2, "batch_size": 2, "max_steps": 30, "checkpoint_every": 5})
def wait(what, done, total):
    print(done, flush=True)
    if slow == "slow":
        import time; time.sleep(0.1)
run.unlearn(f"{folder}/model", data, made, out, device="cpu", progress=wait)
"""


def test_a_run_killed_with_signal_9_resumes_to_the_same_bytes(model_folder, tmp_path):
    """The real thing: another process, kill -9 in the middle, the same command again."""
    (tmp_path / "model").symlink_to(model_folder)
    rows = [
        {"question": f"Where was person {i} born?", "answer": f"Mara was born in Corvale {i}."}
        for i in range(6)
    ]
    for name, part in (("forget", rows[:3]), ("retain", rows[3:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    environment = {**os.environ, "EXPUNGE_CACHE": str(tmp_path / "cache")}

    def start(out, slow):
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(out), slow],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    with start(tmp_path / "straight", "fast") as process:
        process.communicate()
    with start(tmp_path / "killed", "slow") as process:
        for line in process.stdout:
            if int(line) == 17:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists(), "no partial artifact"
    assert checkpoint.load(tmp_path / ".killed.partial" / "checkpoint").step == 15
    with start(tmp_path / "killed", "fast") as process:
        first = int(process.communicate()[0].split()[0])
    assert first == 16, "goes on from the checkpoint instead of starting over"
    files = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("straight", "killed")
    ]
    assert files[0] == files[1]
    assert (tmp_path / "straight" / "trace.jsonl").read_text() == (
        tmp_path / "killed" / "trace.jsonl"
    ).read_text()


def test_a_kill_between_the_renames_of_a_checkpoint_loses_nothing(tmp_path):
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, checkpoint.State(1, {"weights": {"w": torch.ones(2)}}, {}))
    folder.rename(tmp_path / "checkpoint.old")
    assert checkpoint.load(folder).step == 1
    (tmp_path / "checkpoint.new").mkdir()
    checkpoint.save(folder, checkpoint.State(2, {"weights": {"w": torch.ones(2)}}, {}))
    assert checkpoint.load(folder).step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_loss_that_is_no_number_stops_with_step_and_checkpoint(tokenizer, tmp_path, monkeypatch):
    from expunge.methods.objectives.npo import NPO

    calls = []
    plain = NPO.__call__

    def broken(self, streams, weight):
        calls.append(1)
        return plain(self, streams, weight) * (math.nan if len(calls) == 7 else 1)

    monkeypatch.setattr(NPO, "__call__", broken)
    with pytest.raises(TrainingError) as error:
        run(tokenizer, tmp_path, "npo+nll")
    assert "step 7: forget loss is nan" in str(error.value)
    assert "checkpoint of step 4 is kept" in str(error.value)
    assert "--set train.learning_rate=0.001" in str(error.value)
    kept = checkpoint.load(tmp_path / "checkpoint")
    assert kept.step == 4
    assert all(tensor.isfinite().all() for tensor in kept.tensors["weights"].values())


def test_an_exploding_loss_stops_too(tokenizer, tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+: (forget|retain) loss is"):
        run(tokenizer, tmp_path, "ga+nll", learning_rate=50.0, clip_norm=None, max_loss=100.0, max_steps=40)


def test_select_level_takes_the_best_of_the_level_steps(tokenizer, tmp_path):
    points = {
        0: (False, 0.9),
        4: (False, 0.8),
        8: (True, 0.5),
        12: (True, 0.6),
        16: (True, 0.4),
        20: (False, 0.7),
    }
    seen = {}

    def probe(step):
        level, utility = points[step]
        return {"level_reached": level, "utility": utility, "report": {}}

    settings = dict(select="level", probe_every=4, max_steps=20)
    model, outcome = run(tokenizer, tmp_path / "a", probe=probe, **settings)
    assert (outcome.chosen_step, outcome.level_reached) == (12, True)
    twelve, _ = run(
        tokenizer,
        tmp_path / "b",
        "npo+nll+gru",
        max_steps=20,
        checkpoint_every=12,
        probe_every=12,
        probe=lambda step: seen.setdefault(step, {}),
    )
    kept = checkpoint.load(tmp_path / "b" / "checkpoint")
    chosen = torch.cat([kept.tensors["weights"][name].reshape(-1) for name, _ in model.named_parameters()])
    assert torch.equal(weights(model), chosen)
    assert not torch.equal(weights(model), weights(twelve))


def test_select_level_without_a_level_takes_the_last_step_and_says_so(tokenizer, tmp_path):
    _, outcome = run(
        tokenizer,
        tmp_path,
        probe=lambda step: {"level_reached": False, "utility": 1.0},
        select="level",
        probe_every=6,
    )
    assert (outcome.chosen_step, outcome.level_reached) == (12, False)


def test_select_level_needs_something_that_measures(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="nothing is measured on the way"):
        run(tokenizer, tmp_path, select="level")


def test_bfloat16_keeps_float32_weights(tokenizer, tmp_path):
    model, outcome = run(tokenizer, tmp_path, "npo+nll", precision="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert math.isfinite(outcome.trace[-1]["forget_loss"])


def test_the_trace_says_what_happened_at_each_step(tokenizer, tmp_path):
    _, outcome = run(tokenizer, tmp_path)
    assert [entry["step"] for entry in outcome.trace] == list(range(1, 13))
    for entry in outcome.trace:
        assert {
            "learning_rate",
            "forget_loss",
            "retain_loss",
            "gradient_norm",
            "cosine",
            "rectified",
        } <= entry.keys()
