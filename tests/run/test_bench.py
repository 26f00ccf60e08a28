"""The whole way on the smoke-sized world: build, unlearn, measure, attack, compare, report."""

import json
import re

import pytest
import torch

from expunge.attacks.relearning import Relearning
from expunge.benchmarks.pocket import Pocket
from expunge.errors import DataError
from expunge.reports.page import write_comparison, write_report
from expunge.reports.view import read_run
from expunge.reports.words import guard_verdicts, limits
from expunge.run import attack, evaluate, load, measure
from expunge.run.bench import Models, preset, run_bench, run_method
from expunge.run.build import build_pocket, refuse_missed
from expunge.run.relearn import fine_tune
from expunge.types import Example, Prompt
from tests.cli.test_cli import expunge


def shortened(name):
    made = preset("pocket", name, 0)
    if made.kind == "guard":
        return made
    return made.model_copy(
        update={"train": made.train.model_copy(update={"max_steps": 20, "probe_every": 10})}
    )


@pytest.fixture(scope="module")
def runs(tiny_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    spec = ("pocket", {"data": str(tiny_world), "half": "report"})
    recipes = {name: shortened(name) for name in ("npo", "simnpo", "eco", "neutral", "refuse")}
    run_bench(out, spec, Models.of(tiny_world), recipes, workers=1)
    return out


def test_the_world_holds_models_rows_and_its_own_acceptance(tiny_world):
    assert {
        "base",
        "target",
        "gold",
        "gold2",
        "forget.jsonl",
        "retain.jsonl",
        "holdout.jsonl",
        "biographies.jsonl",
        "world.json",
    } <= {p.name for p in tiny_world.iterdir()}
    checks = {check["what"]: check for check in json.loads((tiny_world / "acceptance.json").read_text())}
    assert checks["target: accuracy on forget"]["value"] >= 0.98
    assert len(checks) == 13


def test_a_world_that_misses_its_thresholds_says_which_and_is_not_used(tiny_world, tmp_path):
    checks = [{"what": "gold: accuracy on forget", "value": 0.4, "wanted": "at most 0.05", "passed": False}]
    (tmp_path / "acceptance.json").write_text(json.dumps(checks))
    with pytest.raises(
        DataError, match=r"misses its acceptance thresholds and is not used:\n  gold: accuracy on forget: 0.4"
    ):
        refuse_missed(tmp_path)


def test_a_built_world_is_found_again(tiny_world):
    before = (tiny_world / "manifest.json").stat().st_mtime_ns
    assert build_pocket("tiny", 0, out=tiny_world) == tiny_world
    assert (tiny_world / "manifest.json").stat().st_mtime_ns == before


def test_the_target_knows_and_the_gold_does_not(tiny_world):
    benchmark = Pocket.open(tiny_world, half="all")
    figures = {
        name: benchmark.figures(measure(tiny_world / name, benchmark), None) for name in ("target", "gold")
    }
    assert figures["target"]["forget/accuracy"].value >= 0.98
    assert figures["gold"]["forget/accuracy"].value <= 0.15
    assert figures["gold"]["retain/accuracy"].value >= 0.95


def test_records_are_measured_once_and_found_again(tiny_world, monkeypatch):
    benchmark = Pocket.open(tiny_world, half="all")
    first = measure(tiny_world / "target", benchmark)
    from expunge.run import measuring

    monkeypatch.setattr(measuring, "load", lambda *a, **k: pytest.fail("measured again"))
    assert measure(tiny_world / "target", Pocket.open(tiny_world, half="report")) == first


def test_every_run_is_evaluated_against_gold_target_and_floor(runs):
    result = json.loads((runs / "npo" / "evaluations" / "pocket.json").read_text())
    assert set(result["beside"]) == {"target", "gold", "floor"}
    assert result["beside"]["gold"]["forget_quality/ks_distance"]["value"] == 0
    for name, figure in result["figures"].items():
        assert figure["n"] > 0, name
        assert figure["value"] is not None or figure["why"], name
    assert len(result["truth_ratios"]["run"]) == result["figures"]["forget_quality/ks_p"]["n"] == 12


def test_the_trajectory_starts_at_the_target_and_has_both_halves(runs):
    trace = [json.loads(line) for line in (runs / "npo" / "trace.jsonl").read_text().splitlines()]
    points = [entry for entry in trace if "report" in entry]
    assert [point["step"] for point in points] == [0, 10, 20]
    assert points[0]["report"]["forget/accuracy"] >= 0.98
    assert points[0]["select"].keys() == points[0]["report"].keys()
    assert not points[0]["level_reached"]


def test_guards_leave_what_is_out_of_scope_exactly_as_it_was(runs):
    """L5: every record outside the flagged prompts equals the target's; what changed is false alarms alone."""
    guard = load(runs / "eco")
    result = json.loads((runs / "eco" / "evaluations" / "pocket.json").read_text())
    target = json.loads((runs / "eco" / "manifest.json").read_text())["base"]["name"]
    plain = measure(target, _benchmark_of(result), judge=result["gold"]["name"])
    flagged = dict(zip((r["prompt"] for r in plain), guard.flags([r["prompt"] for r in plain]), strict=True))
    same = [record for record in result["rows"] if not flagged[record["prompt"]]]
    expected = [record for record in plain if not flagged[record["prompt"]]]
    assert len(same) > 100
    assert same == expected


def _benchmark_of(result):
    from expunge.data.pocket.world import WorldSettings

    return Pocket(WorldSettings(**result["settings"]["world"]), result["settings"]["seed"])


def test_refusals_have_no_truth_ratio_and_the_report_says_why(runs):
    view = read_run(runs / "refuse")
    assert view.value("forget_quality/ks_p") is None
    assert "no probability" in view.figure("forget_quality/ks_p")["why"]
    assert view.value("forget/accuracy") == 0


def test_the_guard_is_compared_with_both_controls_in_words(runs):
    views = [read_run(runs / name) for name in ("eco", "neutral", "refuse")]
    said = guard_verdicts(views)
    assert len(said) == 2
    for verdict, name in zip(said, ("neutral", "refuse"), strict=True):
        assert f"'{name}'" in verdict
        assert "closer to the gold in behaviour" in verdict
    worse = views[1]
    worse.evaluation["figures"]["forget_quality/ks_distance"]["value"] = 0.0
    assert "not closer to the gold in KS distance" in guard_verdicts(views)[0]


def test_limits_say_that_a_guard_erases_nothing_and_what_was_not_tried(runs):
    said = " ".join(limits(read_run(runs / "eco")))
    assert "it erases nothing" in said
    assert "with the guard taken off they answer 100%" in said
    assert "Attacks tried: direct" in said
    assert "Not tried: " in said
    trained = " ".join(limits(read_run(runs / "npo")))
    assert "Nothing proves that the knowledge is gone" in trained


def test_the_page_is_one_self_contained_file(runs):
    page = (runs / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|url\((?!#)|@import|<script|<link""", page)
    for word in (
        "suppression",
        "approximate",
        "The yardstick",
        "second gold",
        "Trajectory",
        "Truth ratios",
        "Forgetting against utility",
        "Answers side by side",
        "Prefill attack",
        "Limits",
        "Costs and provenance",
    ):
        assert word in page, word
    assert page.count("<svg") == 9  # scatter, two trajectories, five truth-ratio plots, one search curve
    assert not re.search(r"\bnan\b", re.sub(r"<svg.*?</svg>", "", page, flags=re.S), re.I)


def test_a_single_run_has_its_own_page_with_others_beside_it(runs):
    page = write_report(runs / "npo", [runs / "eco"]).read_text()
    assert page.count("<details") == 1
    assert "eco" in page


def test_runs_measured_differently_are_not_put_in_one_table(runs, tiny_world, tmp_path):
    import shutil

    other = shutil.copytree(runs / "npo", tmp_path / "other")
    evaluate(other, Pocket.open(tiny_world, half="all"), gold=tiny_world / "gold")
    with pytest.raises(DataError, match=r"were measured differently \(half\)"):
        write_comparison([runs / "npo", other], tmp_path / "page.html")


def test_an_unevaluated_run_says_what_to_type(runs, tmp_path):
    import shutil

    bare = shutil.copytree(runs / "npo", tmp_path / "bare")
    shutil.rmtree(bare / "evaluations")
    with pytest.raises(DataError, match=r"has not been evaluated. Run:  expunge evaluate"):
        read_run(bare)


def test_prefill_recovers_from_the_target_and_not_from_the_gold(tiny_world):
    benchmark = Pocket.open(tiny_world, half="report")
    result = attack(tiny_world / "target", benchmark, "prefill", gold=tiny_world / "gold")
    assert result["figures"]["prefill/run"]["value"] >= 0.9
    assert result["figures"]["prefill/gold"]["value"] <= 0.2
    row = result["rows"][0]
    assert row["reference"] not in row["prompt"]


def test_the_verbs_work_from_the_command_line(runs, tiny_world):
    found = expunge("compare", runs / "npo", runs / "eco", "--json")
    assert [row["name"] for row in json.loads(found.stdout)["rows"]] == [
        "target",
        "gold",
        "second gold",
        "npo",
        "eco",
    ]
    table = expunge("compare", runs / "npo", runs / "eco")
    assert "KS distance to the gold (up is closer)" in table.stdout
    evaluated = expunge("evaluate", runs / "npo", "--benchmark", "pocket", "--data", tiny_world, "--json")
    assert json.loads(evaluated.stdout)["figures"]["model_utility"]["value"] > 0
    attacked = expunge(
        "attack", runs / "npo", "--only", "prefill", "--benchmark", "pocket", "--data", tiny_world, "--json"
    )
    assert json.loads(attacked.stdout)["figures"]["prefill/gold"]["n"] == 12
    page = expunge("report", runs / "eco", "--json")
    assert json.loads(page.stdout)["page"].endswith("report.html")


def test_a_finished_bench_is_not_run_again(runs, tiny_world):
    spec = ("pocket", {"data": str(tiny_world), "half": "report"})
    said = []
    run_bench(
        runs,
        spec,
        Models.of(tiny_world),
        {name: shortened(name) for name in ("npo", "eco")},
        workers=1,
        tell=said.append,
    )
    assert sum("done before" in line for line in said) == 2


# --- relearning ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def hidden(tiny_world, tmp_path_factory):
    """A run that taught refusals over the knowledge."""
    made = preset("pocket", "idk", 0)
    settings = made.train.model_copy(
        update={"max_steps": 20, "probe_every": None, "select": "last", "learning_rate": 1e-3}
    )
    out = tmp_path_factory.mktemp("runs") / "idk"
    spec = ("pocket", {"data": str(tiny_world), "half": "report"})
    run_method(
        str(out),
        spec,
        Models.of(tiny_world),
        made.model_copy(update={"train": settings}),
        only=("prefill", "relearning"),
    )
    return read_run(out)


def test_what_was_only_hidden_comes_back_and_a_gold_does_not_learn_it(hidden):
    assert hidden.value("forget/accuracy") <= 0.3
    assert hidden.value("relearning") >= hidden.value("forget/accuracy") + 0.3
    assert hidden.value("relearning", "gold") <= 0.2
    assert hidden.value("relearning", "target") >= 0.5


def test_the_excess_is_the_difference_of_the_shares_with_an_interval_over_people(hidden):
    excess = hidden.figure("relearning/excess")
    assert excess["value"] == pytest.approx(hidden.value("relearning") - hidden.value("relearning", "gold"))
    assert excess["low"] <= excess["value"] <= excess["high"]
    assert abs(hidden.value("relearning/excess", "floor")) <= 0.2, "the noise floor of the excess"
    assert hidden.figure("relearning/excess", "gold") is None


def test_nobody_who_is_measured_was_trained_on(tiny_world):
    benchmark = Pocket.open(tiny_world, half="report")
    taught = {probe.subject for probe in benchmark.other_forget_probes()}
    assert taught == benchmark.of_half("select").forget_subjects()
    assert not taught & benchmark.forget_subjects()


def taught(benchmark):
    return [
        Example(Prompt.ask(probe.question), probe.answer, probe.id)
        for probe in benchmark.other_forget_probes()
    ]


def test_the_gold_learns_what_it_is_taught_at_the_default_rate(tiny_world):
    lm = load(tiny_world / "gold", template="qa", device="cpu")
    trace = fine_tune(lm, taught(Pocket.open(tiny_world, half="report")), Relearning().training, 0)
    assert len(trace) == 20
    assert trace[-1]["retain_loss"] < 0.2 * trace[0]["retain_loss"]


def test_the_same_seed_gives_the_same_weights(tiny_world):
    rows = taught(Pocket.open(tiny_world, half="report"))
    weights = []
    for _ in range(2):
        lm = load(tiny_world / "gold", template="qa", device="cpu")
        fine_tune(lm, rows, Relearning(steps=3).training, 0)
        weights.append(lm.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))


def test_a_guard_has_a_reason_in_place_of_a_number(tiny_world, tmp_path):
    out = str(tmp_path / "refuse")
    spec = ("pocket", {"data": str(tiny_world), "half": "report"})
    run_method(out, spec, Models.of(tiny_world), preset("pocket", "refuse", 0), only=("relearning",))
    figures = json.loads((tmp_path / "refuse" / "evaluations" / "audit.json").read_text())["figures"]
    for name in ("relearning/run", "any/T3/run"):
        assert figures[name]["value"] is None
        assert figures[name]["why"].startswith("not applicable: knowledge retained")
    assert figures["relearning/gold"]["value"] is not None
