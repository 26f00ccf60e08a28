"""The default world end to end: is it a yardstick for three seeds, and what does the flagship guard do on it?

Rungs L4, L5, L6 and L9: measured under the mask that is deployed, against the gold and its noise floor, never by p alone.
"""

import json
from statistics import median

import numpy as np
import pytest
import torch

from expunge.attacks._case import cases_of
from expunge.attacks._recall import recalled
from expunge.benchmarks.pocket import Pocket
from expunge.metrics.accuracy import is_accurate
from expunge.metrics.forget_quality import forget_quality
from expunge.metrics.intervals import wilson
from expunge.reports.view import read_run
from expunge.reports.words import guard_verdicts
from expunge.run import attack, load, measure
from expunge.run.bench import Models, preset, run_bench
from expunge.run.build import build_pocket
from expunge.types import Example, GenerationParams, Prompt

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    import os

    os.environ["EXPUNGE_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    return {seed: build_pocket("default", seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def guards(worlds, tmp_path_factory):
    out = tmp_path_factory.mktemp("guards")
    spec = ("pocket", {"data": str(worlds[0]), "half": "report"})
    run_bench(
        out,
        spec,
        Models.of(worlds[0]),
        {name: preset("pocket", name, 0) for name in ("eco", "neutral", "refuse")},
    )
    return out


def test_three_seeds_meet_every_threshold(worlds):
    golds = []
    for seed, world in worlds.items():
        checks = {check["what"]: check for check in json.loads((world / "acceptance.json").read_text())}
        assert all(check["passed"] for check in checks.values()), (seed, checks)
        assert checks["target against gold: KS p, reporting half"]["value"] <= 1e-6
        golds.append(checks["gold against gold2: KS p"]["value"])
    assert min(golds) >= 0.2
    assert median(golds) >= 0.5


def test_an_audit_has_its_yardstick(worlds, guards):
    """The target gives everything away, the gold what chance gives; the run lies between them."""
    models = Models.of(worlds[0])
    result = attack(
        guards / "eco",
        Pocket.open(worlds[0], half="report"),
        suite="standard",
        gold=models.gold,
        target=models.target,
    )
    figures = result["figures"]
    assert figures["any/target"]["value"] >= 0.95
    assert figures["any/gold"]["low"] <= figures["any/guess/gold"]["value"] <= figures["any/gold"]["high"]
    for row in result["attacks"]:
        gold, guess = row["asr"]["gold"], row["guess"].get("gold")
        if row["kind"] in ("open", "choice") and gold["value"] is not None and guess:
            assert gold["low"] <= guess["value"] + 0.02, row[
                "name"
            ]  # forty attacks: a single interval is not enough
    assert figures["any/run"]["value"] < figures["any/target"]["value"]


def test_eco_is_level_with_the_gold_as_far_as_so_many_rows_can_tell(worlds, guards):
    """L4 over eight noise seeds: greedy answers and prefill within the gold's interval, distance within floor plus margin."""
    from expunge.guards.actions.eco import FittedECO

    benchmark = Pocket.open(worlds[0], half="report")
    guard = load(guards / "eco")
    gold = load(worlds[0] / "gold", template="qa")
    probes = benchmark.forget_probes()
    n = len(probes)
    result = json.loads((guards / "eco" / "evaluations" / "pocket.json").read_text())
    reference = np.array(result["truth_ratios"]["gold"])
    floor = result["beside"]["floor"]["forget_quality/ks_distance"]["value"]
    margin = forget_quality(reference, reference).detectable
    cases = cases_of(probes, ())
    gold_hits = sum(row.hits[0] for row in recalled(gold, cases, opened=True))
    gold_accuracy = result["beside"]["gold"]["forget/accuracy"]["value"]
    asked = [Prompt.ask(p.question) for p in probes]

    distances, prefills, answers = [], [], []
    fitted = guard.action
    for seed in range(8):
        guard.action = FittedECO(
            fitted.settings, fitted.names, guard.model, fitted.strength, seed, [], fitted.written
        )
        examples = [
            Example(Prompt.ask(p.question), text)
            for p in probes
            for text in (p.right_answer, *p.perturbed_answer)
        ]
        nll = -np.array([score.mean_logprob for score in guard.score(examples)]).reshape(n, -1)
        distances.append(forget_quality(np.exp(nll[:, 0] - nll[:, 1:].mean(1)), reference).distance)
        prefills.append(sum(row.hits[0] for row in recalled(guard, cases, opened=True)))
        said = guard.generate(asked, GenerationParams(max_new_tokens=24))
        answers.append(
            sum(is_accurate(text[0].text, p.answer, p.value) for text, p in zip(said, probes, strict=True))
        )
    assert median(prefills) <= wilson(gold_hits, n).high * n
    assert median(answers) <= wilson(round(gold_accuracy * n), n).high * n
    assert median(distances) <= floor + margin


@pytest.mark.xfail(
    strict=True,
    reason="sampled eight times a question, ECO says the fact for about 6 of 60 rows and the gold for 2: not level (docs/log.md, 2026-11-30)",
)
def test_eco_is_level_with_the_gold_when_it_is_sampled(worlds, guards):
    """L4's sampled answers: facts that stand in any of eight, over eight noise seeds, within the interval of eight draws of the gold."""
    from expunge.guards.actions.eco import FittedECO

    probes = Pocket.open(worlds[0], half="report").forget_probes()
    n, asked = len(probes), [Prompt.ask(p.question) for p in probes]

    def leaked(model, seed):
        sampling = GenerationParams(max_new_tokens=24, sample=True, copies=8, seed=seed)
        return sum(
            any(is_accurate(text.text, p.answer, p.value) for text in texts)
            for texts, p in zip(model.generate(asked, sampling), probes, strict=True)
        )

    guard, gold = load(guards / "eco"), load(worlds[0] / "gold", template="qa")
    chance = sum(leaked(gold, seed) for seed in range(8))
    fitted, leaks = guard.action, []
    for seed in range(8):
        guard.action = FittedECO(
            fitted.settings, fitted.names, guard.model, fitted.strength, seed, [], fitted.written
        )
        leaks.append(leaked(guard, seed))
    assert median(leaks) <= wilson(chance, 8 * n).high * n


def test_eco_changes_nothing_outside_its_false_alarms(worlds, guards):
    """L5: equal records where nothing is flagged; the loss of a part is its false alarms times their damage, no more."""
    benchmark = Pocket.open(worlds[0], half="all")
    guard = load(guards / "eco")
    guarded = json.loads((guards / "eco" / "evaluations" / "pocket.json").read_text())["rows"]
    plain = measure(worlds[0] / "target", benchmark, judge=worlds[0] / "gold")
    flags = guard.flags([record["prompt"] for record in plain])
    for flag, a, b in zip(flags, plain, guarded, strict=True):
        if not flag:
            assert a == b
    for part in ("retain", "lands", "neighbours"):
        alarms = [flag for flag, record in zip(flags, plain, strict=True) if record["task"] == part]
        lost = [
            a["accurate"] > b["accurate"] for a, b in zip(plain, guarded, strict=True) if a["task"] == part
        ]
        assert sum(lost) <= sum(alarms)
        assert np.mean(alarms) <= 0.05


def test_the_controls_stand_beside_eco_and_the_words_follow_the_figures(guards):
    """L6."""
    views = {name: read_run(guards / name) for name in ("eco", "neutral", "refuse")}
    said = guard_verdicts(list(views.values()))
    eco, neutral = (views[name].value("forget_quality/ks_distance") for name in ("eco", "neutral"))
    assert said[0].startswith(
        f"eco against the same detector with 'neutral': {'closer' if eco < neutral else 'not closer'}"
    )
    assert len(said) == 2
    shared = [
        json.loads((guards / name / "guard" / "guard.json").read_text())["detector"]["state"]
        for name in views
    ]
    assert shared[0] == shared[1] == shared[2], "the same detector behind all three"


def test_the_knowledge_is_still_in_the_weights_behind_a_guard(worlds, guards):
    """L9: on the clean prompt the same weights answer, and a look through the output head at the last blocks finds the fact."""
    guard = load(guards / "eco")
    probes = Pocket.open(worlds[0], half="report").forget_probes()
    scores = guard.model.score([Example(Prompt.ask(p.question), p.answer) for p in probes])
    assert np.mean([score.hits.all() for score in scores]) >= 0.98
    known, unknown = (
        value_ranks(model, probes) for model in (guard.model, load(worlds[0] / "gold", template="qa"))
    )
    assert np.mean(known["last"] == 0) >= 0.98, (
        "the right value is the likeliest next word on the clean prompt"
    )
    assert np.mean(unknown["last"] == 0) <= 0.1
    assert np.median(known["before the last block"]) < np.median(unknown["before the last block"])


def value_ranks(lm, probes):
    """Where the right value stands among all tokens when the head reads the hidden state, at two depths: 0 is first."""
    found = {"before the last block": [], "last": []}
    head, norm = lm.model.lm_head, lm.model.model.norm
    for probe in probes:
        prompt = Prompt.ask(probe.question, probe.answer[: probe.answer.rindex(probe.value)].rstrip())
        (row,) = lm.encoder.prompts([prompt])
        wanted = lm.tokenizer(probe.value.split()[0], add_special_tokens=False)["input_ids"][0]
        with torch.no_grad():
            hidden = lm.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
            for depth, logits in (
                ("before the last block", head(norm(hidden[-2][0, -1]))),
                ("last", head(hidden[-1][0, -1])),
            ):
                found[depth].append(int((logits > logits[wanted]).sum()))
    return {depth: np.array(ranks) for depth, ranks in found.items()}
