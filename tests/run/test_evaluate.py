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
    for data, gold in (("elsewhere", "gold"), ("", "gold2")):
        evaluate(run, Toy(data), gold=tiny_world / gold, device="cpu")
        with pytest.raises(DataError, match="data" if data else "gold"):
            same_yardstick([first, read_run(run, "toy")])


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
