"""RMU and its retain term: where they are zero, what they move."""

import pytest
import torch

from expunge.errors import ConfigError
from expunge.methods.objectives.rmu import RMU
from expunge.methods.retain.embed import Embed
from expunge.recipes import recipe
from expunge.train.feed import Feed
from expunge.train.loop import train
from tests.methods.cases import CASES
from tests.methods.test_matrix import start, step_gradient
from tests.methods.toy import forget, view

WITH_LAYERS = next(case for case in CASES if case.method == "rmu+embed+layers")


def test_the_loss_is_zero_exactly_at_the_goal_whose_entries_are_not_negative():
    torch.manual_seed(0)
    seen = view(torch.zeros(3), [1, 2])
    seen.hidden = torch.zeros(3, 16)
    goal_size = (
        RMU(size=2.0)(forget(seen), torch.ones(3)) * 16
    )  # mean over 16 of u², so times 16 it is ||u||²
    assert goal_size.item() == pytest.approx(4.0, rel=1e-6)
    direction = torch.rand(16, generator=torch.Generator().manual_seed(0))
    seen.hidden = (2 * direction / direction.norm()).repeat(3, 1)
    assert RMU(size=2.0)(forget(seen), torch.ones(3)).item() == 0
    assert RMU(size=2.0, draw=1)(forget(seen), torch.ones(3)).item() > 0


def test_the_retain_term_and_its_gradient_are_zero_at_the_start():
    seen = view(torch.zeros(2), [2])
    seen.hidden = torch.randn(2, 8, requires_grad=True)
    seen.ref_hidden = seen.hidden.detach().clone()
    loss = Embed(layer=1)(seen)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, seen.hidden)[0].abs().max() == 0


def test_on_a_model_the_first_step_has_no_retain_pull(tokenizer):
    model, _, rows, made = start(tokenizer, WITH_LAYERS)
    _, entry = step_gradient(model, Feed(model, made, rows, 0), made)
    assert entry["retain_loss"] == pytest.approx(0, abs=1e-12)
    assert entry["forget_loss"] > 0


def test_only_the_listed_tensors_move(tokenizer):
    model, _, rows, made = start(tokenizer, WITH_LAYERS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, Feed(model, made, rows, 0), made)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"model.layers.1.mlp.down_proj.weight"}


def test_training_from_a_kept_prefix_gives_the_weights_of_whole_forwards(tokenizer, monkeypatch):
    found = []
    for first in (None, 0):
        model, _, rows, made = start(tokenizer, WITH_LAYERS)
        if first is not None:
            monkeypatch.setattr("expunge.train.feed.first_trained_block", lambda model, layer: 0)
        feed = Feed(model, made, rows, 0)
        assert feed.hidden["forget"].first == (1 if first is None else 0)
        train(model, feed, made)
        found.append(model.model.layers[1].mlp.down_proj.weight.detach().clone())
    assert torch.allclose(*found, atol=1e-6)


def test_embed_takes_its_block_from_rmu_or_wants_one():
    assert recipe("rmu+embed", objective={"layer": 3}).axes["retain"].layer == 3
    assert recipe("rmu+embed").axes["retain"].layer == 7
    assert recipe("npo+embed", retain={"layer": 2}).axes["retain"].layer == 2
    with pytest.raises(
        ConfigError, match="'embed' holds hidden states after one block, and nothing says which"
    ):
        recipe("npo+embed")
