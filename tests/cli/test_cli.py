"""The command line as a stranger meets it: help without torch, JSON alone on standard output, exit codes, messages."""

import json
import os
import subprocess
import sys

import pytest

from tests.run.test_unlearn import FORGET, RETAIN


def expunge(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from expunge.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, part in (("forget", FORGET), ("retain", RETAIN)):
        rows = [{"id": r.id, "question": r.question, "answer": r.answer, "subject": r.subject} for r in part]
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({k: v for k, v in row.items() if v}) + "\n" for row in rows)
        )
    return folder


def test_help_and_listing_import_no_torch():
    code = "import sys, expunge, expunge.cli; from expunge.cli.methods import list_methods; list_methods(); print([m for m in ('torch', 'transformers', 'numpy', 'sklearn', 'scipy', 'matplotlib') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
    found = expunge("--help")
    assert found.returncode == 0
    for verb in (
        "methods",
        "unlearn",
        "evaluate",
        "attack",
        "compare",
        "report",
        "guard",
        "score-log",
        "pocket",
        "bench",
        "benchmarks",
        "leaderboard",
        "harness",
        "corpus",
        "watermark",
    ):
        assert verb in found.stdout


def test_methods_json_is_a_list_of_objects_and_nothing_else():
    found = expunge("methods", "--json")
    entries = json.loads(found.stdout)
    assert all({"name", "kind", "claim", "axes", "needs", "paper"} <= entry.keys() for entry in entries)
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["npo"]["needs"] == ["forget", "ref_logp"]
    assert "arXiv:2404.05868" in by_name["npo"]["paper"]
    assert (by_name["eco"]["kind"], by_name["eco"]["claim"]) == ("guard", "suppression")
    assert by_name["retrain"]["claim"] == "exact"
    assert by_name["dpo"]["cost"]["forwards"] == by_name["dpo"]["cost"]["backwards"] == 2
    assert by_name["kl"]["cost"]["memory"] == [
        "one hidden state an answer token, and a copy of the output head"
    ]
    assert {
        "ga",
        "npo",
        "simnpo",
        "imitate",
        "dpo",
        "nll",
        "kl",
        "sum",
        "gru",
        "lora",
        "plain",
        "eco",
        "refuse",
        "neutral",
    } <= by_name.keys()


def test_one_method_is_shown_in_full_and_a_typo_is_met_with_the_nearest():
    shown = expunge("methods", "simnpo")
    assert "L(θ)" in shown.stdout
    assert "--set objective.beta=2.5" in shown.stdout
    wrong = expunge("methods", "simpo")
    assert wrong.returncode == 2
    assert "Did you mean 'simnpo'?" in wrong.stderr


def test_unlearn_prints_one_json_document(files, model_folder, tmp_path):
    arguments = ["unlearn", model_folder, "--forget", files / "forget.jsonl", "--retain", files / "retain.jsonl", "--method", "npo+gru",
                 "--set", "train.max_steps=2", "--set", "train.batch_size=4", "--out", tmp_path / "run", "--json"]  # fmt: skip
    found = expunge(*arguments)
    assert found.returncode == 0, found.stderr
    manifest = json.loads(found.stdout)
    assert (manifest["method"], manifest["claim"], manifest["kind"]) == ("npo+gru", "approximate", "weights")
    assert json.loads(expunge(*arguments).stdout)["created"] == manifest["created"], (
        "a finished run is not made again"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "npoo"], "unknown method 'npoo'. Did you mean 'npo'?"),
        (["--method", "npo", "--recipe", "tofu-npo"], "give either --method or --recipe"),
        (["--method", "npo", "--forget", "none.jsonl"], "none.jsonl: no such file"),
        (["--method", "npo", "--map", "answer"], "--map answer: expected our field"),
        (["--method", "npo+nll"], "needs retain rows"),
        (["--method", "npo", "--template", "lama2"], "Did you mean 'llama2'?"),
        (["--method", "npo", "--set", "train.select=level"], "nothing is measured on the way"),
    ],
)
def test_wrong_use_of_unlearn_ends_with_a_message_and_code_2(
    files, model_folder, tmp_path, arguments, message
):
    base = ["unlearn", model_folder, "--out", tmp_path / "run"]
    if "--forget" not in arguments:
        base += ["--forget", files / "forget.jsonl"]
    found = expunge(*base, *arguments)
    assert found.returncode == 2
    assert message in found.stderr
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback_of_a_users_error(files, tmp_path):
    found = expunge(
        "--debug",
        "unlearn",
        tmp_path / "nowhere",
        "--forget",
        files / "forget.jsonl",
        "--method",
        "ga",
        "--out",
        tmp_path / "run",
    )
    assert "Traceback" in found.stderr
    assert "no such model folder" in found.stderr


def test_an_unknown_option_offers_the_right_one():
    found = expunge("unlearn", "model", "--forgt", "x")
    assert found.returncode == 2
    assert "--forget" in found.stderr


def test_score_log_gives_the_published_figures_as_json(shared_data):
    logs = shared_data / "tofu_logs"
    found = expunge(
        "score-log",
        logs / "llama2-7b_full_wd0.01.jsonl",
        "--gold",
        logs / "llama2-7b_retain90_wd0.01.jsonl",
        "--json",
    )
    dialects = json.loads(found.stdout)["dialects"]
    assert dialects["tofu"]["model_utility"]["value"] == pytest.approx(0.6226773637427151, abs=1e-6)
    assert dialects["tofu-paper"]["model_utility"]["value"] == pytest.approx(0.585886035092722, abs=1e-6)
    assert dialects["tofu"]["forget_quality/ks_p"]["value"] == pytest.approx(1.834066410994743e-21, rel=1e-6)
    assert dialects["tofu"]["forget_quality/ks_p"]["n"] == 300
    alone = json.loads(expunge("score-log", logs / "llama2-7b_full_wd0.jsonl", "--json").stdout)["dialects"][
        "tofu"
    ]
    assert alone["forget_quality/ks_p"]["value"] is None
    assert "no gold model" in alone["forget_quality/ks_p"]["why"]


def test_score_log_refuses_a_log_that_is_none(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"task": "forget"}\n')
    found = expunge("score-log", tmp_path / "log.jsonl")
    assert found.returncode == 2
    assert "line 1: no field 'idx'" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "x", "--benchmark", "pockt"], "Did you mean 'pocket'?"),
        (["evaluate", "x", "--benchmark", "pocket"], "pocket needs --data"),
        (["evaluate", "x", "--benchmark", "pocket", "--data", "."], "no world.json"),
        (["evaluate", "x", "--benchmark", "tofu", "--data", ".", "--split", "forget7"], "no such split"),
        (
            ["evaluate", "x", "--benchmark", "tofu", "--data", ".", "--half", "left"],
            "should be 'select', 'report' or 'all'",
        ),
        (["evaluate", "x", "--benchmark", "muse", "--data", "."], "no raw.jsonl"),
        (
            ["evaluate", "x", "--benchmark", "muse", "--data", "muse-bench/MUSE-News"],
            "could not be had from the hub",
        ),
        (["evaluate", "x", "--benchmark", "wmdp", "--data", "cais/wmdp"], "put its rows as"),
        (["evaluate", "x", "--benchmark", "rwku", "--data", "."], "probes.jsonl"),
        (["evaluate", "x", "--benchmark", "ort", "--data", "."], "no full.jsonl"),
        (["evaluate", "x", "--benchmark", "offside", "--data", "."], "forget_set.json"),
        (["evaluate", "x", "--benchmark", "waterdrum", "--data", "."], "watermarked.jsonl"),
        (["evaluate", "x", "--benchmark", "extraction", "--data", "."], "privleak.jsonl"),
        (["leaderboard", "nowhere"], "no such folder"),
        (["report", "nowhere"], "no manifest.json"),
        (["compare", "nowhere"], "no manifest.json"),
        (["attack"], "which run or model?"),
        (["attack", "nowhere"], "which facts are to come back? Give --benchmark pocket --data WORLD"),
        (["attack", "x", "--benchmark", "pocket"], "which facts are to come back?"),
        (["attack", "x", "--benchmark", "tofu"], "tofu needs --data"),
        (["attack", "x", "--out", "report.txt"], "as a page (.html) or as data (.json)"),
        (["attack", "x", "--forget", "f.jsonl", "--data", "."], "--forget with --data"),
        (["attack", "x", "--forget", "none.jsonl"], "none.jsonl: no such file"),
        (["attack", "x", "--retain", "r.jsonl"], "Give --forget too"),
        (["compare", "nowhere", "--audits", "a.html"], "no manifest.json"),
        (["bench", "tofu"], "tofu needs --data"),
        (["bench", "pocket", "--size", "huge"], "no such size"),
        (["bench", "pocket", "--size", "tiny", "--target", "x"], "--target: bench pocket does not take it"),
        (["bench", "muse", "--data", ".", "--split", "forget01"], "--split: bench muse does not take it"),
        (["bench", "pocket", "--size", "tiny", "--arch", "foo"], "should be 'llama' or 'moe'"),
        (
            ["evaluate", "x", "--benchmark", "wmdp", "--data", ".", "--set", "subjects=[a"],
            "the value cannot be read",
        ),
        (["harness", "nowhere", "--tasks", " , "], "none is named"),
        (["bench", "pocket", "--size", "tiny", "--methods", "nppo"], "Did you mean 'npo'?"),
    ],
)
def test_wrong_use_of_the_other_verbs_ends_with_a_message_and_code_2(arguments, message, tmp_path):
    found = expunge(*arguments, EXPUNGE_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert found.returncode == 2, found.stderr
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "settings": {}, "seed": "x"}', '{"version": 1, "seed": 0, "settings": {"people": 3, "forget": 3}}']
)  # fmt: skip
def test_a_broken_world_is_refused_in_words(tmp_path, content):
    (tmp_path / "world.json").write_text(content)
    found = expunge("evaluate", "x", "--benchmark", "pocket", "--data", tmp_path)
    assert found.returncode == 2, found.stderr
    assert "world.json" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("how", [KeyboardInterrupt(), SystemExit(130)])
def test_an_interruption_says_that_the_same_command_goes_on(how, monkeypatch, capsys):
    """Typer turns Ctrl-C into an exit with code 130; one that comes before it is still a KeyboardInterrupt."""
    from expunge import cli

    def interrupted():
        raise how

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted; the same command goes on where this one stopped\n"
