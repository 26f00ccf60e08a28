"""The results table: the rule by which settings are chosen, what the page keeps, and a cut of the whole on the smallest world."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.errors import TrainingError

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """The folder of scripts on the path, as when one of them runs."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


def trial(level, gap, utility, accuracy):
    return {"level_reached": level, "level_gap": gap, "utility": utility, "forget/accuracy": accuracy}


def test_of_the_level_settings_the_most_useful_wins_then_the_silent_then_the_nearest(scripts):
    from tune_pocket import choose

    rate = "train.learning_rate={}".format
    trials = {
        rate(0.0002): trial(False, 0.4, 0.9, 0.5),
        rate(0.0005): trial(True, 0.01, 0.6, 0.0),
        rate(0.001): trial(True, 0.02, 0.7, 0.0),
    }
    assert choose("npo", trials)[:3] == (rate(0.001), True, False)
    trials[rate(0.0005)]["utility"] = 0.8
    assert choose("npo", trials)[:3] == (rate(0.0005), True, True), "what the preset has"
    never = {name: found | {"level_reached": False} for name, found in trials.items()}
    assert choose("npo", never).best == rate(0.0005), "silent, and more useful than the other silent one"
    loud = {name: found | {"forget/accuracy": 0.5} for name, found in never.items()}
    assert choose("npo", loud).best == rate(0.0005), "nearest to level"
    loud[rate(0.0005)] = {"failed": "step 3: forget loss is inf"}
    assert choose("npo", loud).best == rate(0.001), "a run that exploded is no candidate"
    with pytest.raises(TrainingError, match="pocket-npo: training exploded at all of"):
        choose("npo", {rate(0.001): {"failed": "step 1: forget loss is nan"}})


def test_every_preset_with_something_to_choose_has_four_runs(scripts):
    from tune_pocket import PRESETS, grid

    sizes = {name: len(grid(name)) for name in PRESETS}
    assert set(sizes.values()) <= {0, 4}
    assert sizes["npo"] == sizes["task-vector"] == sizes["npo-lora"] == 4
    assert sizes["eco"] == sizes["retrain-half"] == 0
    assert grid("npo-lora") == tuple(f"train.learning_rate={rate}" for rate in (0.001, 0.0025, 0.005, 0.01))


def test_the_page_gives_median_range_and_reasons(scripts):
    from results import page

    number = [{"value": value, "why": ""} for value in (0.2, 0.1, 0.4)]
    rows = {
        ("guard", "refuse"): {"relearning": [{"value": None, "why": "suppression"}]},
        ("training", "npo"): {"relearning": number, "forget_quality/ks_p": [{"value": 2e-9, "why": ""}]},
        ("reference", "gold"): {"relearning": number[:1]},
    }
    made = page(rows, {}, {"ga": ["seed 1: step 3: forget loss is inf"]}, [0, 1, 2], "By hand.")
    lines = made.splitlines()
    kinds = [line.split("|")[1].strip() for line in lines if line.startswith(("| ref", "| tra", "| gua"))]
    assert kinds == ["reference", "training", "guard"]
    npo = next(line for line in lines if line.startswith("| training | npo"))
    assert "| 2.0e-09 |" in npo
    assert "| 0.20 (0.10 to 0.40) |" in npo
    assert "- relearned of refuse: suppression." in lines
    assert "- ga, seed 1: step 3: forget loss is inf" in lines
    assert "By hand." in lines


@pytest.mark.slow
def test_a_cut_of_the_results_is_made_once_and_keeps_what_is_by_hand(tmp_path):
    page = tmp_path / "results.md"

    def run():
        found = subprocess.run(
            [sys.executable, "results.py", "--presets", "npo", "refuse", "--seeds", "0", "--size", "tiny",
             "--out", tmp_path / "runs", "--page", page],
            cwd=SCRIPTS, env={**os.environ, "EXPUNGE_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
        return found.stdout, stamps

    first, stamps = run()
    assert "done before" not in first
    made = page.read_text()
    cells = {
        line.split("|")[2].strip(): [cell.strip() for cell in line.split("|")[3:-1]]
        for line in made.splitlines()
        if line.startswith(("| reference", "| training", "| guard"))
    }
    assert list(cells) == ["target", "gold", "second gold", "npo", "refuse"]
    assert len(cells["npo"]) == 15
    assert "–" not in cells["npo"], "every figure is there"
    assert "npo | train.learning_rate: 0.0002, 0.0005, 0.001, 0.002" in made
    assert "relearned, excess of refuse: not applicable: knowledge retained" in made
    page.write_text(made.replace("Not written yet for these figures.", "As I see it."))
    second, again = run()
    assert again == stamps
    assert second.count("done before") == 2
    assert page.read_text() == made.replace("Not written yet for these figures.", "As I see it.")


@pytest.mark.slow
def test_a_cut_of_the_robustness_table_is_made_once(tmp_path):
    page = tmp_path / "robustness.md"
    command = [
        sys.executable, str(SCRIPTS / "robustness.py"), "--presets", "refuse", "--seeds", "0", "--size", "tiny", "--suite", "quick",
        "--workers", "1", "--out", str(tmp_path / "runs"), "--page", str(page),
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    assert "refuse 0: done before" not in first.stdout
    made = page.read_text()
    target = next(line for line in made.splitlines() if line.startswith("| reference | target |"))
    assert target.split("|")[3].strip() == "1.00"
    assert "## Asked, and answered in its own words" in made
    again = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
    assert "refuse 0: done before" in again.stdout
    assert page.read_text() == made
