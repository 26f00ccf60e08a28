"""Audits on the smoke-sized world: yardstick, tiers, guards, what is kept and what resumes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from expunge.artifacts import store
from expunge.attacks._attack import Found, Given, Reading, Trial
from expunge.attacks.direct import Direct
from expunge.benchmarks._asks import ask
from expunge.benchmarks.pocket import Pocket
from expunge.errors import ConfigError, DataError
from expunge.models.load import save_model
from expunge.run import attack, load, unlearn
from expunge.run.audit import is_audited
from expunge.run.auditing import Material, Patient, answered, ask_all, planned
from expunge.run.bench import preset
from expunge.run.choosing import attack_names, chosen, listed
from expunge.types import Prompt
from tests.attacks.leaky import CASES, Leaky
from tests.conftest import make_family
from tests.models import test_endpoint

FEW = ("A00", "A05", "A08b")
server = test_endpoint.server


@pytest.fixture(scope="module")
def benchmark(tiny_world):
    return Pocket.open(tiny_world, half="report")


@pytest.fixture(scope="module")
def guard(tiny_world, benchmark, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "refuse"
    return unlearn(
        tiny_world / "target", benchmark.dataset(), preset("pocket", "refuse", 0), out, template="qa"
    )


@pytest.fixture(scope="module")
def audited(guard, benchmark, tiny_world):
    return attack(guard, benchmark, [*FEW, "W1"], gold=tiny_world / "gold")


# --- the yardstick --------------------------------------------------------------------------------------------------
def test_the_target_gives_everything_away_and_the_gold_stays_at_the_guess_rate(audited):
    figures = audited["figures"]
    assert figures["any/target"]["value"] >= 0.95
    gold, guess = figures["any/gold"], figures["any/guess/gold"]["value"]
    assert gold["low"] <= guess <= gold["high"]


def test_the_excess_is_the_difference_of_the_shares(audited):
    figures = audited["figures"]
    difference = figures["direct/target"]["value"] - figures["direct/gold"]["value"]
    assert figures["direct/excess/target"]["value"] == pytest.approx(difference)
    assert "direct/excess/gold" not in figures


# --- guards ----------------------------------------------------------------------------------------------------------
def test_a_guard_before_whoever_holds_the_weights_is_never_a_pass(audited):
    for name in ("relearning/run", "any/T3/run"):
        assert audited["figures"][name]["value"] is None
        assert audited["figures"][name]["why"].startswith("not applicable: knowledge retained")
    assert audited["figures"]["relearning/target"]["value"] is not None


def test_over_refusal_is_of_what_the_target_answers(audited):
    assert audited["figures"]["over_refusal/target"]["value"] == 0
    assert audited["figures"]["over_refusal/run"]["value"] <= 0.2


# --- what is kept -----------------------------------------------------------------------------------------------------
def test_a_run_folder_keeps_what_it_was_audited_with_before(guard, benchmark, tiny_world, audited):
    assert is_audited(guard, benchmark, "quick", FEW, gold=tiny_world / "gold")
    again = attack(guard, benchmark, ["A05"], gold=tiny_world / "gold")
    assert {row["name"] for row in again["attacks"]} == {"direct", "multiple_choice", "prefill", "relearning"}
    kept = json.loads((guard / "evaluations" / "audit.json").read_text())
    assert kept["figures"] == json.loads(json.dumps(again["figures"]))
    other = attack(guard, benchmark, ["A05"])  # without a gold it is another yardstick
    assert {row["name"] for row in other["attacks"]} == {"multiple_choice"}
    attack(guard, benchmark, [*FEW, "W1"], gold=tiny_world / "gold")


def test_what_another_audit_of_the_run_found_meanwhile_stays(guard, benchmark, tiny_world, tmp_path):
    copy = shutil.copytree(guard, tmp_path / "copy")
    shutil.rmtree(copy / "evaluations", ignore_errors=True)
    begun = []

    def meanwhile(what, done, total):
        if not begun:
            begun.append(what)
            attack(copy, benchmark, ["A08b"], gold=tiny_world / "gold")

    result = attack(copy, benchmark, ["A03"], gold=tiny_world / "gold", progress=meanwhile)
    assert begun
    assert {row["name"] for row in result["attacks"]} == {"cloze", "prefill"}
    assert store.read_json(copy / "evaluations" / "audit.json")["attacks"] == json.loads(
        json.dumps(result["attacks"])
    )


def test_an_audit_that_was_cut_short_goes_on_where_it_was(
    guard, benchmark, tiny_world, monkeypatch, tmp_path
):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    asked = []

    def cut(what, done, total):
        asked.append((what, done))
        if len(asked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack(tiny_world / "gold", benchmark, FEW, progress=cut)
    whole = attack(tiny_world / "gold", benchmark, FEW)
    monkeypatch.setattr("expunge.run.audit.load", lambda *a, **k: pytest.fail("a model was opened again"))
    assert attack(tiny_world / "gold", benchmark, FEW)["figures"] == whole["figures"]


def test_the_same_seed_gives_the_same_rows(benchmark, tiny_world):
    first, second = (attack(tiny_world / "gold", benchmark, FEW, seed=3)["rows"] for _ in range(2))
    assert first == second


# --- choosing ---------------------------------------------------------------------------------------------------------
def test_attacks_are_named_by_number_or_name():
    assert set(chosen("quick", ["a08b", "Multiple-Choice"])) == {"prefill", "multiple_choice"}
    assert set(chosen("quick", ["A08"])) >= {"prefill"}
    assert chosen("quick", ["W1"], {"steps": 3})["relearning"].steps == 3
    assert chosen("quick", ["W1", "A00"], {"relearning": {"steps": 3}})["relearning"].steps == 3


def test_suites_are_nested():
    quick, standard, full = map(attack_names, ("quick", "standard", "full"))
    assert set(quick) < set(standard) <= set(full)
    assert [row["name"] for row in listed()] == full


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (["A99"], {}, "--only A99: no such attack"),
        (["prefil"], {}, "prefill"),
        (["A00"], {"sample": 3}, "unknown setting 'sample'"),
        (["A00", "A05"], {"prefill": {"x": 1}}, "no attack of that name"),
    ],
)
def test_what_there_is_not_is_told_with_the_nearest_name(words, settings, said):
    with pytest.raises(ConfigError, match=said):
        chosen("quick", words, settings)


def test_a_benchmark_without_questions_is_refused_in_words(tiny_world):
    class Texts:
        name = "muse"

    with pytest.raises(ConfigError, match="benchmark muse: an audit asks questions that have answers"):
        attack(tiny_world / "gold", Texts())


# --- trials -----------------------------------------------------------------------------------------------------------
class Telling(Direct):
    """Says the answer itself in every other prompt."""

    def trials(self, case, given: Given):
        yield Trial(Prompt.ask(case.question))
        yield Trial(Prompt.ask(f"{case.question} Is it {case.value}?"))


def test_a_prompt_that_has_the_answer_is_no_trial_of_memory():
    plans, left_out = planned({"it": Telling()}, Material(CASES), 0, lambda prompts: [True] * len(prompts))
    assert len(plans) == len(CASES)
    assert left_out["it"] == {"the answer stands in the prompt already": len(CASES)}


def test_what_does_not_fit_is_counted_and_not_sent():
    plans, left_out = planned({"it": Direct()}, Material(CASES), 0, lambda prompts: [False] * len(prompts))
    assert not plans
    assert left_out["it"] == {"longer than the model reads": 2 * len(CASES)}


class Insisting(Direct):
    """Asks again as long as it gets no fact."""

    def follow(self, case, trial, text):
        turns = trial.prompt.messages
        return None if len(turns) > 5 else Trial(Prompt((*turns, *turns)), trial.variant)


def test_turns_follow_one_another_until_the_attack_ends():
    model = Leaky(leaks=lambda prompt: len(prompt.messages) >= 4)
    attacks = {"it": Insisting(samples=0)}
    plans, _ = planned(attacks, Material(CASES[:2]), 0, lambda prompts: [True] * len(prompts))
    rows = ask_all(lambda asks: ask(model, asks), plans, attacks, CASES)
    assert [(row.case, row.turn, row.hits[0]) for row in rows] == [
        (0, 1, False), (1, 1, False), (0, 2, False), (1, 2, False), (0, 3, True), (1, 3, True), (0, 4, True), (1, 4, True),
    ]  # fmt: skip


def test_one_prompt_that_is_too_long_for_a_guard_does_not_take_the_batch_with_it():
    class Narrow(Leaky):
        def generate(self, prompts, params):
            if any(len(prompt.text) > 60 for prompt in prompts):
                raise DataError("too long")
            return super().generate(prompts, params)

    prompts = [Prompt.ask(CASES[0].question), Prompt.ask(CASES[0].question + " please" * 10)]
    said = Patient(Narrow()).generate(prompts, Trial(prompts[0]).params)
    assert [answers[0].text for answers in said] == [CASES[0].statement, ""]


def test_neighbours_are_answered_by_their_facts():
    model = Leaky(leaks=lambda prompt: "born" in prompt.text)
    found = answered(lambda asks: ask(model, asks), CASES[:3])
    assert found == [True, False, False]


# --- one's own files --------------------------------------------------------------------------------------------------
def test_ones_own_rows_are_attacked_without_any_benchmark(tiny_world, tmp_path):
    from expunge import Dataset

    data = Dataset.from_files(tiny_world / "forget.jsonl", tiny_world / "retain.jsonl")
    result = attack(tiny_world / "target", data, ["prefill"], gold=tiny_world / "gold", template="qa")
    assert result["benchmark"] == "files"
    assert result["figures"]["prefill/run"]["value"] >= 0.95


def test_a_report_of_another_artifact_is_not_taken_for_this_ones(
    guard, benchmark, tiny_world, audited, tmp_path
):
    copy = shutil.copytree(guard, tmp_path / "copy")
    held = store.read_json(copy / "evaluations" / "audit.json")
    held["subject"]["sha256"] = "other"
    store.write_json(copy / "evaluations" / "audit.json", held)
    assert not is_audited(copy, benchmark, "quick", FEW, gold=tiny_world / "gold")


# --- models of every sort -------------------------------------------------------------------------------------------------
def own_rows(world, forget=4, retain=12, **changes):
    from expunge import Dataset

    data = Dataset.from_files(world / "forget.jsonl", world / "retain.jsonl")
    return Dataset(
        *(tuple(replace(row, **changes) for row in rows[:n]) for rows, n in ((data.forget, forget), (data.retain, retain)))
    )  # fmt: skip


def test_an_endpoint_is_asked_what_it_can_be_asked_and_says_why_not_the_rest(server, tiny_world):
    rows = own_rows(tiny_world)
    result = attack(f"{server.url}#m", rows, ["A00", "A08", "A24", "A27", "W2"])
    table = {row["name"]: row for row in result["attacks"]}
    assert table["direct"]["n"] == table["sampling"]["n"] == 4
    for name in ("prefill", "logprobs"):
        assert table[name]["asr"]["run"]["value"] is None
        assert table[name]["why"].startswith("an endpoint answers chats")
    assert sum(table["sampling"]["left_out"].values()) == 4  # beams
    assert "an address" in table["quantization"]["why"]
    assert all(body["messages"][-1]["role"] == "user" for _, body in server.seen)
    beside = attack(
        tiny_world / "target", rows, ["A00", "A08b", "W10"], target=f"{server.url}#m", template="qa"
    )
    table = {row["name"]: row for row in beside["attacks"]}
    assert table["direct"]["asr"]["run"]["value"] >= 0.9
    assert table["prefill"]["n"] == 0  # all meet the same trials
    assert "not known" in table["interpolation"]["why"]  # an address cannot be opened


def test_all_models_meet_the_trials_that_fit_them_all_whatever_their_tokens(tiny_world, tokenizer, tmp_path):
    save_model(make_family("gpt_neox", tokenizer), tokenizer, tmp_path / "other")
    rows = own_rows(tiny_world)
    alone = attack(tiny_world / "target", rows, ["A00", "A01", "A05", "W11"], template="qa")
    result = attack(
        tiny_world / "target", rows, ["A00", "A01", "A05", "W2", "W6", "W11"], gold=tmp_path / "other", target=tmp_path / "other",
        template="qa",
    )  # fmt: skip
    before, table = ({row["name"]: row for row in found["attacks"]} for found in (alone, result))
    assert before["multiple_choice"]["n"] == 4
    assert table["multiple_choice"]["n"] == 0
    assert table["multiple_choice"]["why"] == "longer than the model reads"
    assert {a["n"] for a in table["direct"]["asr"].values()} == {4}
    assert "another shape" in table["activation_patching"]["why"]


def test_a_model_whose_weights_are_no_numbers_says_nothing_and_is_no_crash(tiny_world, tmp_path):
    lm = load(tiny_world / "target", dtype="float32", template="qa")
    next(p for name, p in lm.model.named_parameters() if "layers.1" in name).data.fill_(float("nan"))
    save_model(lm.model, lm.tokenizer, tmp_path / "broken")
    only = ["A00", "A05", "A24", "A26", "W1", "W5a", "W6", "W7"]
    result = attack(
        tmp_path / "broken", own_rows(tiny_world), only, target=tiny_world / "target", template="qa"
    )
    for row in result["attacks"]:
        rate = row["asr"]["run"]["value"]
        assert (rate is None and "no numbers" in row["why"]) if row["id"][0] == "W" else rate == 0, row[
            "name"
        ]
    assert result["figures"]["over_refusal/run"]["value"] == 1


def test_questions_longer_than_the_model_reads_are_left_out_of_every_attack(tiny_world):
    rows = own_rows(tiny_world)
    long = "word " * 300 + rows.forget[0].question
    forget = (replace(rows.forget[0], id="long", question=long), *rows.forget)
    rows = type(rows)(forget, (replace(rows.retain[0], id="long too", question=long), *rows.retain))
    only = ["A00", "W1", "W2", "W3", "W5", "W7", "W8"]
    result = attack(
        tiny_world / "target", rows, only, template="qa", settings={"embedding": {"checkpoints": [1]}}
    )
    assert {row["n"] for row in result["attacks"]} == {4}
    assert not [row for row in result["rows"] if row["case"] == "long"]
    assert {row["case"] for row in result["rows"] if row["attack"] == "relearning"} == {
        row.id for row in rows.forget[1:]
    }


def test_files_without_rows_that_stay_and_without_subjects_are_attacked(tiny_world):
    bare = own_rows(tiny_world, forget=9, retain=0, subject="", group="")
    only = ["A00", "W1", "W2", "W4", "W5", "W6", "W7", "W8"]
    result = attack(
        tiny_world / "target", bare, only, template="qa", settings={"soft_prompt": {"iterations": 2}}
    )
    table = {row["name"]: row for row in result["attacks"]}
    for name in (
        "direct",
        "relearning",
        "quantization",
        "soft_prompt",
        "logit_lens",
        "refusal_probe",
        "noise",
    ):
        assert (table[name]["n"], table[name]["subjects"]) == (9, 9), name
    for name in ("tuned_lens", "presence_probe", "pruning"):
        assert "stay" in table[name]["why"] or "retain" in table[name]["why"]


def test_all_models_are_asked_under_the_runs_template(guard, tiny_world, tmp_path, monkeypatch):
    """A gold with a chat template of its own would otherwise meet other prompts."""
    run = shutil.copytree(guard, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    lm = load(tiny_world / "gold", dtype="float32", template="qa")
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    save_model(lm.model, lm.tokenizer, tmp_path / "gold")
    asked = []
    monkeypatch.setattr(
        "expunge.run.audit.replies_of",
        lambda name, asks, template, **more: asked.append(template) or ask(Leaky(), asks),
    )
    attack(run, own_rows(tiny_world), ["A00"], gold=tmp_path / "gold")
    assert set(asked) == {"qa"}


# --- what readings are kept under -------------------------------------------------------------------------------------------
def test_a_reading_is_kept_under_all_that_it_depends_on_and_under_nothing_else(
    tiny_world, monkeypatch, tmp_path
):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    rows = own_rows(tiny_world)
    tried = []

    def read(self, opened):
        tried.append((self.strengths, len(opened.cases)))
        return Reading([Found(0, (True, False), "it", "text", "prompt")], {"a": 0.5, "b": float("nan")})

    monkeypatch.setattr("expunge.attacks.noise.Noise.read", read)

    def go(model="target", data=rows, seed=0, settings=None, **more):
        return attack(
            tiny_world / model, data, ["W8b"], seed=seed, template="qa", settings=settings or {}, **more
        )

    first = go()
    assert first["attacks"][0]["notes"]["run"] == {"a": 0.5, "b": None}
    assert go()["rows"] == first["rows"]
    go(gold=tiny_world / "target")  # the same model in another part
    assert len(tried) == 1
    go(model="gold")
    go(seed=1)
    go(settings={"strengths": [0.3]})
    go(data=own_rows(tiny_world, forget=3))
    go(data=own_rows(tiny_world, retain=11))
    assert len(tried) == 6
    go(target=tiny_world / "gold")  # another original, for both; the gold was never read beside itself
    assert len(tried) == 8
    for name, value in (("expunge.attacks.noise.Noise.version", 99), ("expunge.run.auditing.VERSION", 99)):
        monkeypatch.setattr(name, value)
        go()
    assert len(tried) == 10


def test_what_was_tried_before_does_not_change_how_torch_computes(tiny_world):
    torch.use_deterministic_algorithms(False)
    try:
        attack(
            tiny_world / "target", own_rows(tiny_world), ["W1"], settings={"steps": 1}, seed=77, template="qa"
        )
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(True)


def test_a_report_counts_as_an_audit_only_where_it_has_the_yardstick_that_is_asked_for(
    guard, benchmark, tiny_world, audited
):
    gold = tiny_world / "gold"
    assert is_audited(guard, benchmark, "quick", FEW, gold=gold)
    assert not is_audited(guard, benchmark, "quick", FEW)
    assert not is_audited(guard, benchmark, "quick", FEW, gold=gold, seed=1)
    other = Pocket.open(tiny_world, half="select")
    assert not is_audited(guard, other, "quick", FEW, gold=gold)


def test_an_attack_of_a_report_whose_settings_are_named_otherwise_now_is_left_behind(
    guard, benchmark, tiny_world, tmp_path
):
    copy = shutil.copytree(guard, tmp_path / "copy")
    held = store.read_json(copy / "evaluations" / "audit.json")
    for row in held["attacks"]:
        if row["name"] == "multiple_choice":
            row["settings"] = {"what was": 1}
    store.write_json(copy / "evaluations" / "audit.json", held)
    again = attack(copy, benchmark, ["A00"], gold=tiny_world / "gold")
    assert {row["name"] for row in again["attacks"]} == {"direct", "prefill", "relearning"}


def test_turns_that_no_longer_fit_are_not_asked():
    attacks = {"it": Insisting(samples=0)}
    plans, _ = planned(attacks, Material(CASES[:2]), 0, lambda prompts: [True] * len(prompts))
    rows = ask_all(
        lambda asks: ask(Leaky(leaks=lambda prompt: False), asks), plans, attacks, CASES,
        lambda trials: [len(trial.prompt.messages) < 4 for trial in trials],
    )  # fmt: skip
    assert [row.turn for row in rows] == [1, 1, 2, 2]
