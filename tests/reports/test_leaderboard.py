"""A leaderboard ranks what was measured alike and never mixes what was not."""

import json

import pytest
from typer.testing import CliRunner

from expunge.cli import app
from expunge.errors import DataError
from expunge.reports.leaderboard import read_boards, write_leaderboard


def figure(value, why=""):
    return {"value": value, "n": 10, "low": None, "high": None, "why": why, "note": ""}


def result(name, values, *, gold="g", target="t", columns=("overall/score", "forget/x"), **settings):
    return {
        "schema": 3,
        "benchmark": "toy",
        "version": 1,
        "metrics": "m",
        "target": {"name": "models/target", "sha256": target},
        "settings": {"benchmark": "toy", "version": 1, **settings},
        "gold": {"name": "models/gold", "sha256": gold} if gold else None,
        "columns": [[column, column.upper(), f"means {column}"] for column in columns],
        "subject": {"name": f"runs/{name}", "sha256": name, "method": "npo", "claim": "approximate"},
        "figures": {column: figure(v, "not known" if v is None else "") for column, v in values.items()},
        "beside": {"target": {"forget/x": figure(1.0)}, "gold": {"forget/x": figure(0.1)}},
        "rows": [],
    }


@pytest.fixture
def folder(tmp_path):
    def put(path, content):
        path = tmp_path / "results" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    put("a/evaluations/toy.json", result("a", {"overall/score": 0.4, "forget/x": 0.9}))
    put("b.json", result("b", {"overall/score": 0.7, "forget/x": 0.2}))
    put("copy-of-b.json", result("b", {"overall/score": 0.7, "forget/x": 0.2}))
    put("c.json", result("c", {"overall/score": None, "forget/x": 0.5}))
    put("other-gold.json", result("d", {"overall/score": 0.99, "forget/x": 0.0}, gold="h"))
    put("other-target.json", result("f", {"overall/score": 0.97, "forget/x": 0.0}, target="u"))
    put("other-half.json", result("e", {"overall/score": 0.98, "forget/x": 0.0}, half="select"))
    put("a/evaluations/attack-prefill.json", {**result("a", {}), "attack": "prefill"})
    put("manifest.json", {"kind": "weights"})
    (tmp_path / "results" / "broken.json").write_text("{")
    return tmp_path / "results"


def names(board):
    return [row["name"] for row in board.rows]


def test_results_of_one_yardstick_share_a_table_best_first_and_those_without_the_figure_last(folder):
    boards = read_boards(folder)
    assert len(boards) == 4
    (board,) = (board for board in boards if len(board.rows) > 3)
    assert names(board) == ["target", "gold", "b", "a", "c"]
    assert board.ranked_by == "overall/score"
    assert [name for name, _, _ in board.columns] == ["overall/score", "forget/x"]


def test_another_figure_ranks_from_the_top_or_from_the_bottom(folder):
    high, low = (
        next(b for b in read_boards(folder, "forget/x", lowest) if len(b.rows) > 3)
        for lowest in (False, True)
    )
    assert names(high)[2:] == ["a", "c", "b"]
    assert names(low)[2:] == ["b", "c", "a"]
    with pytest.raises(DataError, match="Did you mean 'forget/x'"):
        read_boards(folder, "forget/y")


def test_without_a_score_to_rank_by_rows_stand_by_name(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.json").write_text(
            json.dumps(result(name, {"forget/x": 1.0 if name == "b" else 0.0}, columns=("forget/x",)))
        )
    (board,) = read_boards(tmp_path)
    assert names(board) == ["target", "gold", "a", "b"]
    assert board.ranked_by == ""


def test_the_page_has_every_row_its_claim_and_the_reason_for_what_is_absent(folder):
    page = write_leaderboard(read_boards(folder), folder / "page.html").read_text()
    for name in "abcdef":
        assert f"<b>{name}</b>" in page
    assert 'title="not known">n/a' in page
    assert "claim approximate" in page
    assert "Figures of different tables do not compare" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_from_the_command_line(folder):
    found = CliRunner().invoke(app, ["leaderboard", str(folder), "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert len(told["boards"]) == 4
    assert (folder / "leaderboard.html").is_file()


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_a_folder_without_results_says_how_to_get_one(tmp_path, where):
    with pytest.raises(DataError, match=r"no such folder|expunge evaluate RUN"):
        read_boards(tmp_path / where)
