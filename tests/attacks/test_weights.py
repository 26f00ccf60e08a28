"""Pruning, noise, taking adapters off, and going between two models: where they must succeed, and where they must not."""

import pytest
import torch

from expunge.attacks._recall import rate, recalled
from expunge.attacks._weights import feed_forward_ends, matrices, rewritten
from expunge.attacks.adapter_strip import AdapterStrip
from expunge.attacks.interpolation import Interpolation
from expunge.attacks.noise import Noise
from expunge.attacks.pruning import Pruning, activity, most_active
from expunge.attacks.quantization import Quantization
from expunge.models.load import save_model
from expunge.models.merged import merge_adapters, scale_adapters
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Prompt
from tests.attacks.opening import hide, material, opened, plain, share
from tests.conftest import FAMILIES, make_family
from tests.run.test_unlearn import DATA, EXAMPLES, TRAIN


@pytest.fixture(scope="module")
def rows(tiny_world):
    return material(tiny_world)


@pytest.fixture(scope="module")
def hidden(tiny_world, rows, tmp_path_factory):
    return hide(tiny_world / "target", rows, tmp_path_factory.mktemp("hidden") / "model")


def weights_of(lm):
    return {name: weight.clone() for name, weight in lm.model.state_dict().items()}


@pytest.mark.parametrize(
    "attack", [Pruning(), Noise(), Quantization(bits=(4,)), Interpolation()], ids=lambda a: a.id
)
def test_weights_are_as_they_were_when_it_is_done_and_the_same_seed_finds_the_same(attack, tiny_world, rows):
    given = opened(tiny_world / "gold", rows, tiny_world / "target")
    before = weights_of(given.lm)
    first = attack.read(given)
    assert all(torch.equal(weight, before[name]) for name, weight in given.lm.model.state_dict().items())
    assert attack.read(given) == first
    assert {row.case for row in first.found} == set(range(len(rows.cases)))


def test_a_change_is_taken_back_where_what_was_done_with_it_fails(lm):
    before = weights_of(lm)
    with pytest.raises(KeyError), rewritten(matrices(lm.model), lambda name, weight: weight * 0):
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())


# --- pruning ---------------------------------------------------------------------------------------------------------------
def test_without_the_neurons_that_wake_at_forgotten_rows_a_hidden_fact_is_back_and_a_gold_has_none(
    tiny_world, rows, hidden
):
    assert plain(hidden, rows) <= 0.1
    reading = Pruning().read(opened(hidden, rows))
    assert share(reading) >= 0.3
    assert share(Pruning().read(opened(tiny_world / "gold", rows))) <= 0.2
    assert reading.notes["1% of the neurons: retain rows answered"] >= 0.9


def test_the_share_of_neurons_with_the_largest_difference_is_switched_off_and_one_at_least():
    difference = torch.tensor([0.1, -3.0, 2.0, 0.5])
    assert most_active(difference, 0.5).tolist() == [False, False, True, True]
    assert most_active(difference, 0.01).tolist() == [False, False, True, False]


def test_exactly_the_inputs_of_pruned_neurons_are_zero(tiny_world, rows, monkeypatch):
    given = opened(tiny_world / "target", rows)
    ends = feed_forward_ends(given.lm.model)
    forget, retain = activity(given.lm, rows.cases), activity(given.lm, rows.retain[:100])
    seen = []

    def keep(lm, cases, variant="", **more):
        seen.append({block: (layer.weight == 0).all(0) for block, layer in ends.items()})
        return []

    monkeypatch.setattr("expunge.attacks.pruning.recalled", keep)
    Pruning(shares=(0.1,)).read(given)
    for block, off in seen[0].items():
        assert torch.equal(off, most_active(forget[block] - retain[block], 0.1))


def test_activity_is_the_mean_size_over_the_tokens_of_the_questions_whatever_shares_a_batch(tiny_world, rows):
    given = opened(tiny_world / "target", rows)
    lm, cases = given.lm, rows.cases[:5]
    together = activity(lm, cases)
    ids = [lm.encoder.prompts([Prompt.ask(case.question)])[0].ids for case in cases]
    for block, layer in feed_forward_ends(lm.model).items():
        seen = []
        handle = layer.register_forward_hook(
            lambda module, args, out, seen=seen: seen.append(args[0][0].abs())
        )
        with torch.no_grad():
            for row in ids:
                lm.model(input_ids=torch.tensor([row]))
        handle.remove()
        assert torch.allclose(together[block], torch.cat(seen).mean(0), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_of_the_feed_forward_part_is_found_in_every_family_that_has_one(family, tokenizer):
    model = make_family(family, tokenizer)
    ends = feed_forward_ends(model)
    if family == "qwen3_moe":
        assert ends == {}
    else:
        wide = model.config.intermediate_size
        assert [layer.in_features for layer in ends.values()] == [wide, wide]


def test_fused_experts_are_a_reason_and_no_crash(tiny_world, rows, tokenizer):
    given = opened(tiny_world / "gold", rows)
    given.lm.model = make_family("qwen3_moe", tokenizer)
    assert "experts" in Pruning().read(given).why


# --- noise -----------------------------------------------------------------------------------------------------------------
def test_noise_shakes_a_thin_cover_off_and_gives_nothing_of_a_gold(tiny_world, rows, hidden):
    assert share(Noise(strengths=(0.1, 0.2, 0.3)).read(opened(hidden, rows))) >= plain(hidden, rows) + 0.15
    assert share(Noise().read(opened(tiny_world / "gold", rows))) <= 0.2
    assert share(Noise().read(opened(tiny_world / "target", rows))) >= 0.9


def test_noise_has_the_size_that_is_asked_for(tiny_world, rows, monkeypatch):
    given = opened(tiny_world / "gold", rows)
    before = weights_of(given.lm)
    sizes = []

    def measure(lm, cases, variant="", **more):
        for name, weight in matrices(lm.model).items():
            moved = (weight.detach() - before[name]).square().mean().sqrt() / before[
                name
            ].square().mean().sqrt()
            sizes.append(float(moved))
        return []

    monkeypatch.setattr("expunge.attacks.noise.recalled", measure)
    Noise(strengths=(0.1,)).read(given)
    assert sizes == pytest.approx([0.1] * len(sizes), rel=0.05)
    assert sizes


# --- adapters --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def adapted(tiny_world, rows, tmp_path_factory):
    """An adapter that hides what the target knows."""
    from expunge.benchmarks.pocket import Pocket

    data = Pocket.open(tiny_world, half="all").dataset()
    train = {"learning_rate": 1e-2, "max_steps": 15, "batch_size": 16}
    out = tmp_path_factory.mktemp("adapted") / "run"
    made = recipe("dpo+nll+lora", train=train, adapter={"rank": 8})
    return unlearn(tiny_world / "target", data, made, out, template="qa", device="cpu")


def test_an_adapter_taken_off_leaves_the_base_bit_for_bit(tiny_world, rows, adapted):
    hidden = plain(adapted, rows)
    assert hidden <= 0.5
    given = opened(adapted, rows)
    reading = AdapterStrip().read(given)
    base = load(tiny_world / "target", dtype="float32", template="qa", device="cpu")
    off = [row.text for row in reading.found if row.variant == "adapter taken off"]
    assert off == [row.text for row in recalled(base, rows.cases)]
    assert all(
        torch.equal(w, base.model.state_dict()[name]) for name, w in given.lm.model.state_dict().items()
    )
    assert share(reading, "adapter taken off") == 1.0
    assert {row.variant for row in reading.found} == {"adapter taken off", "half of the adapter"}


def test_without_an_adapter_there_is_nothing_to_take_off(tiny_world, rows):
    reading = AdapterStrip().read(opened(tiny_world / "gold", rows))
    assert not reading.found
    assert "no adapter" in reading.why


def test_half_of_an_adapter_moves_the_weights_half_as_far(model_folder, tmp_path):
    made = recipe("ga+lora", train=TRAIN, adapter={"rank": 4})
    out = unlearn(model_folder, DATA, made, tmp_path / "run", device="cpu")
    base, whole, half = load(model_folder), load(out), load(out)
    assert scale_adapters(base.model, 0.5) == 0
    assert scale_adapters(half.model, 0.5) > 0
    for lm in (whole, half):
        merge_adapters(lm.model)
    start = base.model.state_dict()
    far, near = ({name: w - start[name] for name, w in lm.model.state_dict().items()} for lm in (whole, half))
    assert any(move.abs().max() > 0 for move in far.values())
    assert all(torch.allclose(near[name], far[name] / 2, atol=1e-6) for name in far)
    assert half.score(EXAMPLES)[0].logprob != whole.score(EXAMPLES)[0].logprob


def test_other_attacks_merge_the_adapter_first(rows, adapted, tiny_world):
    given = opened(adapted, rows, tiny_world / "target")
    reading = Interpolation(places=(0.75,)).read(given)
    assert reading.notes["t = 0.75: recalled"] >= 0.5
    assert not reading.why


# --- between two models ------------------------------------------------------------------------------------------------------
def test_the_way_to_the_original_brings_back_what_was_hidden_and_near_the_end_is_the_original(
    tiny_world, rows, hidden
):
    reading = Interpolation().read(opened(hidden, rows, tiny_world / "target"))
    shares = [share(reading, f"t = {t}") for t in ("0.25", "0.5", "0.75")]
    assert shares == sorted(shares)
    assert shares[-1] >= 0.9
    given = opened(hidden, rows, tiny_world / "target")
    near = Interpolation(places=(0.999,)).read(given)
    assert rate(near.found) == plain(tiny_world / "target", rows)


def test_between_a_gold_and_itself_there_is_nothing(tiny_world, rows):
    reading = Interpolation().read(opened(tiny_world / "gold", rows, tiny_world / "gold"))
    assert share(reading) == plain(tiny_world / "gold", rows) <= 0.2


def test_half_way_is_the_mean_of_the_weights_and_minus_one_mirrors_them(
    tiny_world, rows, hidden, monkeypatch
):
    given = opened(hidden, rows, tiny_world / "target")
    start, end = weights_of(given.lm), weights_of(given.original())
    seen = {}

    def keep(lm, cases, variant="", **more):
        seen[variant] = weights_of(lm)
        return []

    monkeypatch.setattr("expunge.attacks.interpolation.recalled", keep)
    Interpolation(places=(0.5, -1.0)).read(given)
    for name in start:
        assert torch.allclose(seen["t = 0.5"][name], (start[name] + end[name]) / 2, atol=1e-6)
        assert torch.allclose(seen["t = -1"][name], 2 * start[name] - end[name], atol=1e-6)


def test_without_the_original_or_with_another_architecture_there_is_a_reason(
    tiny_world, rows, tokenizer, tmp_path
):
    assert "--target" in Interpolation().read(opened(tiny_world / "gold", rows)).why
    save_model(make_family("gpt_neox", tokenizer), tokenizer, tmp_path / "other")
    assert "other tensors" in Interpolation().read(opened(tiny_world / "gold", rows, tmp_path / "other")).why
