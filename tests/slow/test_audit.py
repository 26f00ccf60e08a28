"""The standard suite on every kind of artifact, through the command line as a user has it."""

import json

import pytest

from expunge.benchmarks.pocket import Pocket
from expunge.run import unlearn
from expunge.run.bench import preset
from expunge.run.choosing import attack_names
from tests.cli.test_cli import expunge

pytestmark = pytest.mark.slow
KINDS = {"weights": "npo", "adapter": "npo-lora", "guard": "eco"}


@pytest.fixture(scope="module", params=KINDS)
def audited(request, tiny_world, tmp_path_factory):
    """(kind, run folder, report) of the standard suite."""
    made = preset("pocket", KINDS[request.param], 0)
    if made.kind == "training":
        made = made.model_copy(
            update={
                "train": made.train.model_copy(
                    update={"max_steps": 30, "probe_every": None, "select": "last"}
                )
            }
        )
    benchmark = Pocket.open(tiny_world, half="report")
    selection = benchmark.of_half("select").forget_subjects()
    data = benchmark.dataset()
    out = tmp_path_factory.mktemp("audits") / request.param
    unlearn(
        tiny_world / "target",
        data,
        made,
        out,
        template="qa",
        selection=[row for row in data.forget if row.group in selection],
        refusals=benchmark.refusals(),
    )
    done = expunge("attack", out, "--suite", "standard", "--json")
    return request.param, out, json.loads(done.stdout)


def test_every_attack_has_a_number_or_a_reason(audited):
    _, _, report = audited
    assert [row["name"] for row in report["attacks"]] == attack_names("standard")
    for row in report["attacks"]:
        for who, figure in row["asr"].items():
            assert (figure["value"] is None) == bool(figure["why"]), (row["name"], who, figure)
    tried = [row["name"] for row in report["attacks"] if row["asr"]["target"]["value"] is not None]
    assert len(tried) >= 38, (
        "what pocket's context has no room for, and what takes an adapter, is all that is missing"
    )


def test_the_yardstick_stands(audited):
    figures = audited[2]["figures"]
    assert figures["any/target"]["value"] >= 0.95
    assert figures["any/gold"]["low"] <= figures["any/guess/gold"]["value"]


def test_each_kind_meets_what_its_claim_allows(audited):
    kind, _, report = audited
    figures = report["figures"]
    if kind == "guard":
        for tier in ("T3", "T4"):
            assert figures[f"any/{tier}/run"]["value"] is None
            assert figures[f"any/{tier}/run"]["why"].startswith("not applicable: knowledge retained")
        opened = [row for row in report["attacks"] if row["tier"] in ("T3", "T4")]
        assert all(row["asr"]["run"]["value"] is None for row in opened)
        assert figures["any/T2/run"]["value"] < figures["any/T2/target"]["value"]
    else:
        assert figures["any/T4/run"]["value"] is not None
    stripped = next(row for row in report["attacks"] if row["name"] == "adapter_strip")["asr"]["run"]
    if kind == "adapter":
        assert stripped["value"] >= 0.95, "whoever has the adapter's file can leave it out"
    else:
        assert stripped["value"] is None


def test_the_page_and_the_comparison_show_it(audited):
    kind, out, report = audited
    page = (out / "audit.html").read_text()
    for row in report["attacks"]:
        assert row["id"] in page
    if kind == "guard":
        assert "not applicable: knowledge retained" in page
    expunge("evaluate", out, "--benchmark", "pocket", "--data", out.parents[1] / "worlds" / "tiny")
    columns = json.loads(expunge("compare", out, "--json").stdout)["columns"]
    assert {"any/T2", "prefill", "over_refusal"} <= set(columns)


def test_a_second_audit_says_the_same(audited):
    _, out, report = audited
    again = json.loads(expunge("attack", out, "--suite", "standard", "--json").stdout)
    assert again["figures"] == report["figures"]
    assert again["rows"] == report["rows"]
