"""`expunge attack` from the command line: the list, whose questions are asked, the summary, the page and the document."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from expunge.benchmarks.pocket import Pocket
from expunge.cli import app, auditing
from expunge.errors import ConfigError, DataError, StorageError, UserError
from expunge.recipes import recipe
from expunge.reports.page import table_rows, write_report
from expunge.reports.view import audits_differ, read_run
from expunge.reports.words import attacks_said, limits
from expunge.run import evaluate, unlearn
from tests.reports.audits import RETAINED


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def guard(tiny_world, tmp_path_factory):
    """A guard of a pocket world, evaluated and attacked from the command line."""
    out = tmp_path_factory.mktemp("attacked") / "refuse"
    unlearn(
        tiny_world / "target",
        Pocket.open(tiny_world).dataset(),
        recipe("refuse", detector="aliases"),
        out,
        template="qa",
        device="cpu",
    )
    evaluate(out, Pocket.open(tiny_world), gold=tiny_world / "gold", device="cpu")
    found = run("attack", out, "--only", "A00,prefill,W2", "--device", "cpu", "--json")
    assert found.exit_code == 0, found.output
    return out, json.loads(found.stdout)


def test_the_list_is_every_attack_with_tier_suite_and_kind():
    listed = json.loads(run("attack", "--list", "--json").stdout)
    by_name = {row["name"]: row for row in listed}
    assert by_name["prefill"]["id"] == "A08b"
    assert by_name["prefill"]["tier"] == "T2"
    assert by_name["relearning"]["needs"] == "weights"
    assert all(row["summary"] and row["suite"] and row["kind"] for row in listed)
    shown = run("attack", "--list").stdout
    assert all(row["name"] in shown for row in listed)
    assert "T4: holds the weights" in shown


def test_the_list_for_a_guard_says_what_does_not_apply(guard):
    listed = json.loads(run("attack", guard[0], "--list", "--json").stdout)
    for row in listed:
        assert row["barred"] == (RETAINED if row["tier"] in ("T3", "T4") else "")
    assert RETAINED in re.sub(r"\s+", " ", run("attack", guard[0], "--list").stdout)


def test_the_list_for_an_address_leaves_the_weights_out():
    listed = json.loads(run("attack", "http://localhost:1/v1#m", "--list", "--json").stdout)
    assert {row["barred"] for row in listed if row["needs"] == "answers"} == {""}
    assert all("not at hand" in row["barred"] for row in listed if row["needs"] == "weights")


def test_a_run_knows_its_own_world_and_golds(guard, tiny_world):
    _, document = guard
    assert document["benchmark"] == "pocket"
    assert document["gold"]["name"] == str(tiny_world / "gold")
    assert document["target"]["name"] == str(tiny_world / "target")
    assert auditing.world_of(str(tiny_world / "gold")) == str(tiny_world)
    with pytest.raises(ConfigError, match="which facts"):
        auditing.rows_to_attack("some/model", None, None, None, None)


def test_a_folder_says_by_itself_whether_it_is_a_world(tiny_world):
    rows, data = auditing.rows_to_attack("some/model", None, str(tiny_world), None, None, half="all")
    assert (rows.name, rows.half, data) == ("pocket", "all", str(tiny_world))


def test_the_document_has_a_verdict_a_tier_and_the_guard_is_no_pass_before_the_weights(guard):
    out, document = guard
    told = {row["tier"]: row for row in document["verdicts"]}
    assert list(told) == ["T0", "T1", "T2", "T3", "T4"]
    assert told["T3"]["sentence"] == told["T4"]["sentence"] == f"{RETAINED}."
    assert told["T0"]["status"] == "small"  # a dozen facts claim nothing
    assert document["written"] == [str(out / "audit.html")]
    assert RETAINED in (out / "audit.html").read_text()


def test_the_summary_always_has_the_yardstick_and_what_was_not_tried(guard):
    told = run("attack", guard[0], "--only", "prefill", "--device", "cpu").stdout
    flat = re.sub(r"\s+", " ", told)
    assert "A guard suppresses, it never erases" in flat
    assert re.search(r"target +1\.000 \[", told)
    assert re.search(r"gold +0\.\d+ \[", told)
    assert "12 facts were tried. To claim at most 1.3 % takes 300" in flat
    assert "Not tried:" in flat
    assert f"n/a: quantization: {RETAINED}" in flat
    assert "A08b" in told


def test_the_target_itself_fails_and_leaves_no_page_where_it_lies(tiny_world, tmp_path):
    out = tmp_path / "target.html"
    found = run("attack", tiny_world / "target", "--only", "prefill", "--device", "cpu", "--out", out)
    assert found.exit_code == 0, found.output
    assert re.search(r"T2 \(.*?\) comes back: 12 of 12 facts", re.sub(r"\s+", " ", found.stdout))
    assert out.is_file()
    assert not (tiny_world / "target" / "audit.html").exists()


def test_redacted_data_hold_no_name_and_no_fact(guard, tiny_world, tmp_path):
    out = tmp_path / "audit.json"
    run("attack", guard[0], "--only", "prefill", "--device", "cpu", "--redact", "--out", out)
    document = json.loads(out.read_text())
    text = out.read_text()
    assert document["redacted"] is True
    for probe in Pocket.open(tiny_world).forget_probes():
        assert probe.subject not in text
        assert probe.subject.replace(" ", "_") not in text
        assert not re.search(rf"\b{re.escape(probe.value)}\b", text)


# --- what compare and the run's own page take from it -------------------------------------------------------------------
def test_a_run_is_seen_with_its_audit(guard):
    view = read_run(guard[0])
    assert view.tried == ["direct", "prefill"]
    assert view.value("prefill", "target") >= 0.9
    assert view.value("any/T2/excess") == view.figure("any/T2/excess")["value"]
    assert view.value("any", "gold") is not None
    assert view.value("over_refusal") is not None
    assert view.figure("prefill", "floor") is not None  # the world has a second gold
    for name in ("quantization", "quantization/excess", "any/T4"):
        assert view.figure(name)["value"] is None
        assert view.figure(name)["why"] == RETAINED
    assert view.figure("crescendo") is None
    assert view.figure("forget/accuracy")["n"] == 12
    said = attacks_said(view)
    assert said.startswith("Attacks tried: direct, prefill. Without a figure: quantization. Not tried: ")
    assert said in limits(view)


def test_a_run_nobody_attacked_says_so(guard):
    view = read_run(guard[0])
    view.audit = None
    assert attacks_said(view) == "Attacks tried: none. `expunge attack refuse` tries to get the knowledge back."  # fmt: skip
    assert view.figure("prefill") is None
    assert [name for name, _, _ in table_rows([view])[0] if name.startswith("any")] == []


def test_compare_gains_columns_of_robustness(guard):
    columns, rows = table_rows([read_run(guard[0])])
    names = [name for name, _, _ in columns]
    place = names.index("forget/accuracy")
    assert names[place + 1 : place + 6] == [
        "any/T2",
        "any/T2/excess",
        "prefill",
        "quantization",
        "over_refusal",
    ]
    by_name = {row["name"]: row["figures"] for row in rows}
    assert by_name["target"]["any/T2"]["value"] >= 0.95
    assert by_name["gold"]["prefill"]["value"] <= 0.2
    assert by_name["refuse"]["over_refusal"]["n"] == by_name["target"]["over_refusal"]["n"]


def test_audits_that_differ_do_not_stand_in_one_table(guard):
    one, other = read_run(guard[0]), read_run(guard[0])
    other.audit = {**other.audit, "attacks": other.audit["attacks"][:1]}
    assert audits_differ(one.audit, other.audit, "prefill") == ""
    _, rows = table_rows([one, other])
    assert rows[-1]["figures"]["any/T2"]["value"] is None
    assert "other attacks" in rows[-1]["figures"]["any/T2"]["why"]
    assert rows[-1]["figures"]["prefill"]["value"] is not None
    other.audit = {**one.audit, "seed": 5}
    assert table_rows([one, other])[1][-1]["figures"]["prefill"]["why"] == "the audits differ in attack seed"


def test_the_runs_page_has_the_prefilled_answers_and_a_link_to_the_audit(guard):
    text = write_report(guard[0]).read_text()
    assert '<a href="audit.html">the audit of refuse</a>' in text
    assert "Prefill attack" in text
    assert "came back" in text
    assert "None" not in text[text.index("Prefill attack") :][:2000]


def test_compare_writes_the_page_of_all_audits(guard, tmp_path):
    page = tmp_path / "audits.html"
    found = run("compare", guard[0], "--audits", page, "--out", tmp_path / "all.html", "--json")
    assert json.loads(found.stdout)["audits"] == str(page)
    assert "A08b prefill" in page.read_text()


@pytest.mark.parametrize(("width", "fewer"), [(80, True), (1000, False)])
def test_a_narrow_terminal_shows_as_many_columns_as_fit_and_success_never_without_refusals(guard, width, fewer):  # fmt: skip
    from expunge.cli.compare import fitting

    columns, rows = table_rows([read_run(guard[0])])
    shown = [name for name, _, _ in fitting(columns, rows, width)]
    assert (len(shown) < len(columns)) == fewer
    assert {"any/T2", "over_refusal"} <= set(shown)


# --- what cannot work is told at once -------------------------------------------------------------------------------------
def refused(*arguments):
    """What is said of a command that cannot work: no traceback, nothing on standard output."""
    with pytest.raises(UserError) as error:
        run("attack", *arguments, "--device", "cpu")
    return str(error.value)


@pytest.mark.parametrize("only", ["", ",", " , "])
def test_only_without_a_name_is_no_whole_suite(guard, only):
    assert "names no attack" in refused(guard[0], "--only", only)


@pytest.mark.parametrize("limit", ["0", "1", "5", "nan", "-0.1"])
def test_a_limit_is_a_share(guard, limit):
    assert "a share between 0 and 1" in refused(guard[0], "--limit", limit)


def test_a_report_that_cannot_be_written_is_told_before_the_attacks(guard, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    assert "is a file" in refused(guard[0], "--out", tmp_path / "file" / "a.json")
    assert "is a folder" in refused(guard[0], "--out", tmp_path / "folder.json")
    assert "page (.html) or as data (.json)" in refused(guard[0], "--out", tmp_path / "a.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.json"}
    with pytest.raises(StorageError, match="is a file"):
        run("compare", guard[0], "--audits", tmp_path / "file" / "a.html")


def test_a_model_that_is_not_there_is_told_before_anything_is_asked(tiny_world, tmp_path):
    assert "which facts" in refused(tmp_path / "nowhere")
    assert "no such model folder" in refused(tmp_path / "nowhere", "--data", tiny_world)


@pytest.fixture
def copy(guard, tmp_path):
    return shutil.copytree(guard[0], tmp_path / "copy")


@pytest.mark.parametrize(
    ("name", "sha256", "said"), [("/gone", "b", "cannot be read now"), (None, "b" * 64, "is another model")]
)
def test_a_run_whose_base_is_gone_or_another_one_is_not_attacked(copy, name, sha256, said):
    facts = json.loads((copy / "manifest.json").read_text())
    facts["base"] = {"name": name or facts["base"]["name"], "sha256": sha256}
    (copy / "manifest.json").write_text(json.dumps(facts))
    told = refused(copy, "--only", "A00")
    assert said in told
    assert "--target" not in told  # a guard stands before its base: another target does not help


@pytest.mark.parametrize("text", ['{"schema": 4, "rows', "[1]"])
def test_a_report_that_cannot_be_read_is_no_traceback(copy, text):
    (copy / "evaluations" / "audit.json").write_text(text)
    assert "Take the file away" in refused(copy, "--only", "A00")
    with pytest.raises(DataError, match="Take the file away"):
        read_run(copy)


def test_an_evaluation_of_an_earlier_version_is_no_traceback(copy):
    place = copy / "evaluations" / "pocket.json"
    facts = json.loads(place.read_text())
    del facts["target"]
    place.write_text(json.dumps(facts))
    with pytest.raises(DataError, match="pocket was written by an earlier version"):
        read_run(copy)
    place.write_text(json.dumps({**facts, "target": None}))
    (copy / "evaluations" / "attack-prefill.json").write_text('{"attack": "prefill", "figures": {}}')
    with pytest.raises(DataError, match="attack-prefill was written by an earlier version"):
        read_run(copy)


def test_rows_that_do_not_say_what_carries_the_fact_are_refused_before_anything_is_asked(guard, tmp_path):
    for rows in ('{"question": "Where was Ada born?", "answer": "In Ely."}', '{"subject": "Ada Loom"}'):
        (tmp_path / "rows.jsonl").write_text(rows + "\n")
        told = refused(guard[0], "--forget", tmp_path / "rows.jsonl")
        assert "no forget row says which words of its answer carry the fact" in told
        assert "'key'" in told
        assert "--only side_channel" in told


def test_fields_of_ones_own_files_may_have_other_names(guard, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"q": "Where was Ada born?", "answer": "In Ely.", "key": ["Ely"]}\n'
    )
    found = run("attack", guard[0], "--only", "A00", "--device", "cpu", "--forget", tmp_path / "rows.jsonl", "--map", "question=q", "--json")  # fmt: skip
    assert found.exit_code == 0, found.output
    assert {row["reference"] for row in json.loads(found.stdout)["rows"]} == {"Ely"}
    assert "--map without --forget" in refused(guard[0], "--map", "question=q")


# --- a limit ----------------------------------------------------------------------------------------------------------------
def test_a_limit_that_is_not_shown_is_exit_code_1_with_one_sentence_and_all_of_the_report(copy, tmp_path):
    found = run("attack", copy, "--only", "A00,prefill", "--device", "cpu", "--limit", "0.05", "--json", "--out", tmp_path / "a.json")  # fmt: skip
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    assert document["limit"]["share"] == 0.05
    assert document["limit"]["kept"] is False
    assert document["limit"]["said"] in found.stderr.splitlines()
    assert json.loads((tmp_path / "a.json").read_text())["limit"] == document["limit"]
    assert (copy / "audit.html").is_file()


def test_a_limit_that_is_kept_is_exit_code_0_and_says_so_last(tiny_world):
    gold = tiny_world / "gold"
    command = ["attack", gold, "--data", tiny_world, "--target", tiny_world / "target", "--only", "prefill", "--device", "cpu"]  # fmt: skip
    found = run(*command, "--limit", "0.3")
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines()[-1].startswith("Limit 0.3 is kept: ASR_any of any attack is ")
    found = run(*command, "--limit", "0.05")
    assert found.exit_code == 1
    assert "12 facts are too few, it takes 73 without a hit" in found.stderr


def test_the_target_keeps_no_limit(tiny_world):
    found = run("attack", tiny_world / "target", "--only", "prefill", "--device", "cpu", "--limit", "0.9")
    assert found.exit_code == 1
    assert "Limit 0.9 is broken" in found.stderr


def test_names_of_folders_are_no_markup(copy):
    odd = copy.rename(copy.with_name("[bold]x[ b]"))
    assert "[bold]x[ b]" in run("compare", odd).stdout
    assert run("compare", copy.with_name("[b]"), odd).exit_code == 0
