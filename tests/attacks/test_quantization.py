"""Quantisation: rounding by hand, equal codes, and what rounding brings back."""

from statistics import NormalDist

import pytest
import torch

from expunge.attacks._weights import matrices
from expunge.attacks.quantization import NF4, Quantization, equal_codes, regained, round_nf4, round_uniform
from expunge.data.batching import collate
from expunge.models.load import save_model
from expunge.models.logprobs import answer_rows
from expunge.types import Example, Prompt
from tests.attacks.opening import material, opened, plain, share
from tests.conftest import FAMILIES, make_family


@pytest.fixture(scope="module")
def rows(tiny_world):
    return material(tiny_world)


def test_rounding_to_two_bits_by_hand():
    rounded = round_uniform(torch.tensor([[1.0, -2.0, 0.3, 0.6], [0.0, 0.0, 0.0, 0.0]]), 2)
    assert rounded.codes.tolist() == [[1, -2, 0, 1], [0, 0, 0, 0]]  # s = 2 · 2 / 4 = 1
    assert rounded.weight.tolist() == [[1, -2, 0, 1], [0, 0, 0, 0]]


def test_each_group_has_a_step_of_its_own_and_the_last_one_may_be_shorter():
    weight = torch.tensor([[1.0, 0.4, 10.0, 4.0, 8.0]])
    rounded = round_uniform(weight, 2, group=2)  # steps 0.5, 5 and 4
    assert rounded.codes.tolist() == [[2, 1, 2, 1, 2]]
    assert rounded.weight.tolist() == [[1.0, 0.5, 10.0, 5.0, 8.0]]


@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_step(bits):
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    step = 2 * weight.abs().amax(-1, keepdim=True) / 2**bits
    assert ((round_uniform(weight, bits).weight - weight).abs() <= step * 0.5001).all()


def test_the_levels_of_nf4_are_those_that_its_construction_gives():
    last = 0.9677083
    normal = NormalDist().inv_cdf
    positive = [normal(last + (0.5 - last) * i / 8) for i in range(8)]
    negative = [-normal(last + (0.5 - last) * i / 7) for i in range(7)]
    levels = sorted([*positive, 0.0, *negative])
    assert [level / max(levels) for level in levels] == pytest.approx(list(NF4), abs=1e-6)


def test_nf4_goes_to_the_nearest_level_of_each_group():
    weight = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    rounded = round_nf4(weight).weight
    for part, got in zip(weight.split(64, -1), rounded.split(64, -1), strict=True):
        largest = part.abs().amax(-1, keepdim=True)
        nearest = (part[..., None] - largest[..., None] * torch.tensor(NF4)).abs().amin(-1)
        assert torch.allclose((part - got).abs(), nearest, atol=1e-6)
    assert torch.equal(round_nf4(torch.zeros(2, 3)).weight, torch.zeros(2, 3))


def test_a_model_has_all_codes_in_common_with_itself_and_fewer_with_another(tiny_world, rows):
    target, gold = (matrices(opened(tiny_world / name, rows).lm.model) for name in ("target", "gold"))
    for grid in Quantization().grids.values():
        assert equal_codes(target, target, grid) == 1.0
        assert 0.0 < equal_codes(gold, target, grid) < 0.9


def test_a_target_still_answers_at_eight_and_four_bits_and_a_gold_does_not(tiny_world, rows):
    for name, low, high in (("target", 0.9, 1.0), ("gold", 0.0, 0.2)):
        reading = Quantization().read(opened(tiny_world / name, rows, tiny_world / "target"))
        for variant in Quantization().grids:
            assert low <= share(reading, variant) <= high, (name, variant)
        assert reading.notes["8 bits, rows: equal codes"] == 1.0 or name == "gold"
        assert reading.notes["8 bits, rows: share regained"] == (None if name == "target" else 0.0)


def test_what_was_moved_by_less_than_half_a_step_is_rounded_away(tiny_world, rows, tmp_path):
    """The target unlearned inside its own buckets of 4 bits: each weight goes down the likelihood of the facts and keeps its code."""
    given = opened(tiny_world / "target", rows)
    lm = given.lm
    lm.model.requires_grad_(True)
    weights = matrices(lm.model)
    batch = collate(lm.encoder.examples([case_example(case) for case in rows.cases]), lm.pad_id)
    held = {name: weight.detach().clone() for name, weight in weights.items()}
    for _ in range(3):
        lm.model.zero_grad()
        answer_rows(lm.model, batch).logp.mean().backward()
        with torch.no_grad():
            for name, weight in weights.items():
                peaks = held[name].abs().amax(-1, keepdim=True)
                half = 0.49 * 2 * peaks / 2**4
                moved = (weight - half * weight.grad.sign()).clamp(-peaks, peaks)
                centre = round_uniform(held[name], 4).weight
                inside = torch.minimum(torch.maximum(moved, centre - half), centre + half)
                weight.copy_(torch.where(held[name].abs() == peaks, held[name], inside))
    save_model(lm.model, lm.tokenizer, tmp_path / "moved")
    assert plain(tmp_path / "moved", rows) <= 0.1
    reading = Quantization(bits=(4,)).read(opened(tmp_path / "moved", rows, tiny_world / "target"))
    assert reading.notes["4 bits, rows: equal codes"] > 0.999
    assert share(reading, "4 bits, rows") >= 0.9
    assert reading.notes["4 bits, rows: share regained"] >= 0.9
    assert reading.notes["4 bits, rows: change on retain rows"] > 0


def case_example(case):
    return Example(Prompt.ask(case.question), case.probe.answer, case.probe.id)


def test_weights_are_as_they_were_when_it_is_done_and_embeddings_and_head_are_left(tiny_world, rows):
    given = opened(tiny_world / "target", rows)
    before = {name: weight.clone() for name, weight in given.lm.model.state_dict().items()}
    first = Quantization(bits=(4,)).read(given)
    assert all(torch.equal(weight, before[name]) for name, weight in given.lm.model.state_dict().items())
    assert Quantization(bits=(4,)).read(given) == first
    assert not [
        name for name in matrices(given.lm.model) if "embed" in name or "lm_head" in name or "norm" in name
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_every_family_is_rounded(family, tokenizer):
    model = make_family(family, tokenizer)
    found = matrices(model)
    head = model.get_output_embeddings().weight
    embeddings = model.get_input_embeddings().weight
    left = {id(head): head, id(embeddings): embeddings}
    rest = [p for p in model.parameters() if id(p) not in left and p.dim() > 1]
    assert {id(p) for p in found.values()} == {id(p) for p in rest}
    assert all(round_uniform(p.detach(), 4, 128).weight.shape == p.shape for p in found.values())


def test_the_share_regained_needs_something_that_was_lost():
    assert regained(0.6, 0.2, 1.0) == pytest.approx(0.5)
    assert regained(0.6, 1.0, 1.0) is None
    assert regained(0.6, None, 1.0) is None
