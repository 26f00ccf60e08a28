"""Evaluating on any benchmark: who stands beside the run, whose tokens are counted, what is kept, and what shares a table."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from expunge.benchmarks._asks import Asks
from expunge.benchmarks._benchmark import NO_GOLD, NO_TARGET, Benchmark
from expunge.benchmarks.pocket import Pocket
from expunge.cli import app
from expunge.errors import DataError
from expunge.recipes import recipe
from expunge.reports.page import write_comparison, write_report
from expunge.reports.view import read_run, same_yardstick
from expunge.run import evaluate, unlearn
from expunge.types import Example, Figure

TEXT = "Mara Olen was born in Corvale."


class Toy(Benchmark):
    name, version, data_is = "toy", 1, "nothing"
    columns = (("text/loss", "loss", "mean NLL of a text"), ("text/excess", "excess", "less the gold's"))
    counts_tokens = True

    @property
    def settings(self):
        return {"benchmark": self.name, "version": self.version, "data": self.data}

    def asks(self):
        return Asks([Example(None, "".join(self.pieces(TEXT)[:4]))])

    def rows(self, replies):
        (example,) = self.asks().scores
        score = replies.score(example)
        return [
            {
                "task": "text",
                "idx": 0,
                "prompt": TEXT,
                "reference": "",
                "generation": "x",
                "loss": None if score is None else -score.mean_logprob,
                "why": replies.why.get("score", ""),
            }
        ]

    def figures(self, rows, gold=None, target=None):
        (loss,) = (row["loss"] for row in rows)
        excess = {"gold": (gold, NO_GOLD), "target": (target, NO_TARGET)}
        return {
            "text/loss": Figure(loss, 1, why=rows[0]["why"] if loss is None else ""),
            **{
                f"text/excess_{who}" if who != "gold" else "text/excess": Figure(None, 1, why=why)
                if other is None or loss is None
                else Figure(loss - other[0]["loss"], 1)
                for who, (other, why) in excess.items()
            },
        }


@pytest.fixture(scope="module")
def run(tiny_world, tmp_path_factory):
    """A guard before the target, evaluated on nothing yet."""
    data = Pocket.open(tiny_world).dataset()
    out = tmp_path_factory.mktemp("runs") / "refuse"
    return unlearn(tiny_world / "target", data, recipe("refuse"), out, template="qa", device="cpu")


def test_target_and_gold_reach_the_figures_and_what_is_missing_has_a_reason(tiny_world, run):
    alone = evaluate(tiny_world / "target", Toy(""), device="cpu")
    assert (alone["figures"]["text/excess"]["why"], alone["figures"]["text/excess_target"]["why"]) == (
        NO_GOLD,
        NO_TARGET,
    )
    given = evaluate(
        tiny_world / "gold", Toy(""), gold=tiny_world / "gold", target=tiny_world / "target", device="cpu"
    )
    assert given["figures"]["text/excess"]["value"] == 0
    assert given["figures"]["text/excess_target"]["value"] != 0
    guarded = evaluate(run, Toy(""), gold=tiny_world / "gold", device="cpu")
    assert set(guarded["beside"]) == {"target", "gold"}
    assert guarded["subject"]["claim"] == "suppression"


def test_tokens_are_those_of_the_subject_and_words_before_an_endpoint(tiny_world, run):
    toy = Toy("")
    found = evaluate(run, toy, device="cpu")
    assert "".join(toy.pieces(TEXT)) == TEXT
    assert len(found["tokens"]) == 64
    other = Toy("")
    silent = evaluate("http://127.0.0.1:9/v1#m", other)
    assert other.pieces(TEXT) == TEXT.replace(" ", "| ").split("|")
    assert silent["tokens"].startswith("words")
    assert "gives no log-probabilities" in silent["figures"]["text/loss"]["why"]


def test_a_result_is_kept_in_the_run_and_in_a_file_of_ones_choice(run, tmp_path):
    kept = evaluate(run, Toy(""), out=tmp_path / "a" / "toy.json", device="cpu")
    for path in (run / "evaluations" / "toy.json", tmp_path / "a" / "toy.json"):
        found = json.loads(path.read_text())
        assert found["figures"] == json.loads(json.dumps(kept["figures"]))
        assert pq.read_table(path.with_suffix(".parquet")).to_pylist() == found["rows"]


def test_one_run_has_a_page_with_all_its_benchmarks(tiny_world, run):
    evaluate(run, Toy(""), gold=tiny_world / "gold", device="cpu")
    evaluate(run, Pocket.open(tiny_world), gold=tiny_world / "gold", device="cpu")
    assert read_run(run).evaluation["benchmark"] == "pocket"
    page = write_report(run).read_text()
    assert "Also measured: toy" in page
    assert "mean NLL of a text" in page
    other = write_comparison([run], run.parent / "toy.html", "toy").read_text()
    assert "benchmark toy" in other
    assert "What was written" in other
    assert "Also measured: pocket" in other
    with pytest.raises(DataError, match=r"has not been evaluated on muse, only on pocket, toy"):
        read_run(run, "muse")
    table = CliRunner().invoke(app, ["compare", str(run), "--benchmark", "toy", "--json"])
    assert set(json.loads(table.stdout)["columns"]) == {"text/loss", "text/excess"}


def test_other_data_or_another_gold_is_another_yardstick(tiny_world, run, tmp_path):
    evaluate(run, Toy(""), gold=tiny_world / "gold", device="cpu")
    first = read_run(run, "toy")
    for data, gold, target in (
        ("elsewhere", "gold", None),
        ("", "gold2", None),
        ("", "gold", tiny_world / "base"),
    ):
        evaluate(run, Toy(data), gold=tiny_world / gold, target=target, device="cpu")
        with pytest.raises(DataError, match="data" if data else "target" if target else "gold"):
            same_yardstick([first, read_run(run, "toy")])


def test_other_definitions_of_the_metrics_are_another_yardstick(tiny_world, run, monkeypatch):
    from expunge.metrics import loss

    evaluate(run, Toy(""), gold=tiny_world / "gold", device="cpu")
    first = read_run(run, "toy")
    monkeypatch.setattr(loss, "VERSION", loss.VERSION + 1)
    evaluate(run, Toy(""), gold=tiny_world / "gold", device="cpu")
    with pytest.raises(DataError, match="metrics"):
        same_yardstick([first, read_run(run, "toy")])


def test_the_judge_of_fluency_is_the_gold(tiny_world, run):
    """Not the run itself, which finds plausible whatever it writes."""
    benchmark = Pocket.open(tiny_world)
    by = [
        evaluate(run, benchmark, gold=tiny_world / gold, device="cpu")["figures"]["forget/fluency"]["value"]
        for gold in ("gold", "base")
    ]
    assert by[0] != by[1]
    alone = evaluate(run, benchmark, device="cpu")["figures"]["forget/fluency"]
    assert alone["value"] is None
    assert alone["why"]


def test_what_an_earlier_version_wrote_is_refused_in_words(run, tmp_path):
    import shutil

    old = shutil.copytree(run, tmp_path / "old")
    path = old / "evaluations" / "toy.json"
    path.write_text(json.dumps({"benchmark": "toy", "figures": {}}))
    with pytest.raises(DataError, match="written by an earlier version"):
        read_run(old)


def test_a_file_that_is_no_json_is_refused_before_anything_is_measured(run):
    found = CliRunner().invoke(
        app, ["evaluate", str(run), "--benchmark", "pocket", "--data", "x", "--out", "result.csv"]
    )
    assert "ends in .json" in str(found.exception)


def test_a_gold_with_other_tokens_or_a_wrong_name_is_refused_before_anything_is_measured(
    tiny_world, run, model_folder, monkeypatch
):
    from expunge.errors import ModelError
    from expunge.run import measuring

    monkeypatch.setattr(measuring, "measure", lambda *a, **k: pytest.fail("measured"))
    with pytest.raises(ModelError, match="its tokenizer is another one"):
        evaluate(run, Toy(""), gold=model_folder, device="cpu")
    with pytest.raises(ModelError, match="no such model folder"):
        evaluate(run, Toy(""), gold="./nowhere", device="cpu")


def test_a_broken_result_is_named_and_a_folder_is_no_file(run, tmp_path):
    import shutil

    from expunge.errors import StorageError
    from expunge.reports.leaderboard import read_boards

    evaluate(run, Toy(""), device="cpu")
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "evaluations" / "toy.json").write_text("{")
    for read in (read_run, read_boards):
        with pytest.raises(DataError, match=r"toy\.json: not readable"):
            read(broken)
    with pytest.raises(StorageError, match="is a folder"):
        evaluate(run, Toy(""), out=tmp_path, device="cpu")
    with pytest.raises(StorageError, match="not allowed to write there"):
        evaluate(run, Toy(""), out="/proc/expunge.json", device="cpu")
    assert not list(tmp_path.glob("*.new"))
