"""Selections: exact shares, limits of WAGLE's score, and weights outside that never move (check C20)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.data.batching import collate
from expunge.errors import ConfigError
from expunge.methods.selection.layers import Layers
from expunge.methods.selection.snip import SNIP
from expunge.methods.selection.wagle import WAGLE
from expunge.models.logprobs import answer_rows
from expunge.recipes import recipe
from expunge.train.feed import Feed
from expunge.train.loop import _Run, train
from expunge.train.selection import pack, top_share, unpack
from expunge.train.statistics import mean_gradients, mean_squares
from expunge.types import ParameterView
from tests.methods.cases import CASES
from tests.methods.test_matrix import start


def unpacked(masks, tensors):
    return {name: unpack(masks[name], tensor.shape) for name, tensor in tensors.items()}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 1.0 + 2**-23, 3e38]), min_size=1, max_size=60),
    st.floats(0.01, 1),
    st.integers(1, 4),
)
def test_the_largest_share_is_exact_and_the_first_of_equals_win(values, share, pieces):
    """The same as a stable sort of everything, however it is cut into tensors."""
    scores = torch.tensor(values)
    parts = {str(i): part for i, part in enumerate(scores.chunk(pieces))}
    masks = unpacked(top_share(parts.items, share), parts)
    found = torch.cat([masks[name] for name in parts])
    expected = torch.zeros(len(values), dtype=torch.bool)
    expected[torch.sort(scores, descending=True, stable=True).indices[: int(share * len(values))]] = True
    assert torch.equal(found, expected)


def test_a_tensor_that_is_scored_in_pieces_has_the_mask_of_the_whole():
    torch.manual_seed(0)
    scores = {"a": torch.rand(100), "b": torch.rand(37)}
    whole = top_share(scores.items, 0.3)
    pieces = [("a", scores["a"][:64]), ("a", scores["a"][64:]), ("b", scores["b"])]
    cut = top_share(lambda: pieces, 0.3)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_run_scores_in_pieces_what_it_would_score_at_once(tokenizer, monkeypatch):
    case = next(case for case in CASES if case.method == "npo+nll+wagle")
    masks = []
    for piece in (1 << 20, 4096):
        monkeypatch.setattr("expunge.train.selection.PIECE", piece)
        model, _, rows, made = start(tokenizer, case)
        masks.append(_Run(model, Feed(model, made, rows, 0), made, None, None).masks)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_a_packed_mask_takes_a_bit_a_weight_and_comes_back(tokenizer):
    torch.manual_seed(0)
    mask = torch.rand(7, 13) > 0.5
    packed = pack(mask.reshape(-1))
    assert packed.dtype == torch.uint8
    assert len(packed) == 12  # 91 bits
    assert torch.equal(unpack(packed, mask.shape), mask)


@pytest.mark.parametrize("share", [0.95, 0.5, 0.001])
def test_the_share_holds_over_all_parameters_together(tokenizer, share):
    case = next(case for case in CASES if case.method == "npo+nll+wagle")
    model, _, rows, made = start(tokenizer, case._replace(settings={"selection": {"share": share}}))
    run = _Run(model, Feed(model, made, rows, 0), made, None, None)
    total = sum(p.numel() for p in model.parameters())
    kept = sum(int(unpack(run.masks[name], p.shape).sum()) for name, p in model.named_parameters())
    assert kept == int(share * total)
    assert run.trained_share == kept / total


def test_wagle_lies_between_snip_and_the_product_of_gradients():
    torch.manual_seed(0)
    weight, forget, retain = (torch.randn(1000, dtype=torch.float64) for _ in range(3))
    seen = ParameterView(weight, forget, retain)
    assert torch.allclose(WAGLE(gamma=1e12).score(seen), SNIP().score(seen), atol=1e-10)
    order = WAGLE(gamma=1e-12).score(seen).argsort()
    assert torch.equal(order, (forget * retain).abs().argsort())


def test_gamma_on_sums_over_batches_is_gamma_times_batches_on_means():
    torch.manual_seed(0)
    weight, forget, retain = (torch.randn(1000, dtype=torch.float64) for _ in range(3))
    means = WAGLE(gamma=0.5).score(ParameterView(weight, forget, retain, batches=8))
    sums = WAGLE(gamma=4.0, gamma_on="sum").score(ParameterView(weight, forget, retain, batches=8))
    assert torch.allclose(means, sums, rtol=1e-12)
    by_hand = WAGLE(gamma=4.0).score(ParameterView(weight, 8 * forget, 8 * retain)) / 8
    assert torch.allclose(sums, by_hand, rtol=1e-12), "the authors' sums, taken literally, order the same"


@pytest.mark.parametrize(
    "method", ["npo+nll+wagle", "npo+nll+gru+wagle", "ga+nll+snip", "ga+random", "ga+layers"]
)
def test_what_was_not_selected_stays_bit_for_bit_under_weight_decay(tokenizer, method):
    case = next(case for case in CASES if case.method == method)
    model, _, rows, made = start(tokenizer, case)
    made = made.model_copy(
        update={
            "train": made.train.model_copy(update={"weight_decay": 0.5, "max_steps": 5, "clip_norm": 1.0})
        }
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = _Run(model, Feed(model, made, rows, 0), made, None, None)
    run.finish(lambda done, total: None)
    moved = 0
    for name, parameter in model.named_parameters():
        may = (
            unpack(run.masks[name], parameter.shape)
            if run.masks
            else torch.full(parameter.shape, name in run.weights)
        )
        assert torch.equal(parameter[~may], before[name][~may]), name
        moved += int((parameter[may] != before[name][may]).sum())
    assert moved > 0


def test_decay_on_selected_weights_is_adamws_own(tokenizer):
    """With everything but one weight selected, the others take the step of a dense run."""
    case = next(case for case in CASES if case.method == "ga+random")
    found = []
    for share in (1.0, 1 - 1e-6):
        model, _, rows, made = start(tokenizer, case._replace(settings={"selection": {"share": share}}))
        made = made.model_copy(
            update={"train": made.train.model_copy(update={"weight_decay": 0.5, "max_steps": 1})}
        )
        train(model, Feed(model, made, rows, 0), made)
        found.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert int(((found[0] - found[1]).abs() > 1e-6).sum()) == 1


def test_a_share_of_one_is_the_dense_run_bit_for_bit(tokenizer):
    found = []
    for method, chosen in (("npo+nll", {}), ("npo+nll+wagle", {"selection": {"share": 1.0}})):
        case = next(case for case in CASES if case.method == method)
        model, _, rows, made = start(tokenizer, case._replace(settings=chosen))
        train(model, Feed(model, made, rows, 0), made)
        found.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*found)


def test_mean_gradients_do_not_depend_on_the_batches(tokenizer):
    model, _, rows, _ = start(tokenizer, CASES[0])
    weights = dict(model.named_parameters())
    found = [mean_gradients(model, weights, rows.forget, 0, size) for size in (1, 4)]
    for name in weights:
        assert torch.allclose(found[0][name], found[1][name], atol=1e-6)


def test_layers_that_match_nothing_are_refused_with_names_that_there_are(tokenizer):
    case = next(case for case in CASES if case.method == "ga+layers")
    model, _, rows, made = start(tokenizer, case._replace(settings={"selection": {"patterns": ["nothing"]}}))
    with pytest.raises(
        ConfigError, match=r"no parameter matches \['nothing'\].\nThis model has, for example: model"
    ):
        train(model, Feed(model, made, rows, 0), made)
    with pytest.raises(ConfigError, match="is no regular expression"):
        recipe("ga+layers", selection={"patterns": ["("]})
    assert Layers(patterns=["5.mlp"]).takes("model.layers.5.mlp.down_proj.weight")


def test_selection_and_adapter_are_refused_together():
    with pytest.raises(
        ConfigError, match="'wagle' picks among the model's own weights, and 'lora' freezes them all"
    ):
        recipe("npo+nll+wagle+lora")


def test_mean_squares_are_of_single_rows_not_of_their_batch(tokenizer):
    model, _, rows, _ = start(tokenizer, CASES[0])
    weights = dict(model.named_parameters())
    found = mean_squares(model, weights, rows.forget, 0)
    name = "model.layers.0.mlp.down_proj.weight"
    by_hand = torch.zeros_like(weights[name])
    for row in rows.forget:
        (gradient,) = torch.autograd.grad(answer_rows(model, collate([row], 0)).logp.sum(), weights[name])
        by_hand += gradient**2 / len(rows.forget)
    assert torch.allclose(found[name], by_hand, rtol=1e-5)
    assert all(weight.grad is None for weight in weights.values())
