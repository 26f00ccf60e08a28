"""Hidden states after a block: leaving early and starting late are exact, whatever the architecture (check C29)."""

import pytest
import torch

from expunge.data.batching import collate
from expunge.errors import ConfigError
from expunge.models.hidden import (
    HiddenRows,
    block_output,
    block_output_from,
    find_blocks,
    first_trained_block,
)
from expunge.models.language_model import TransformerLM
from tests.conftest import FAMILIES, make_family, make_model
from tests.methods.test_matrix import rows_of


@pytest.fixture
def deep(tokenizer):
    return make_model(tokenizer, num_hidden_layers=5)


@pytest.fixture
def batch(tokenizer, deep):
    return collate(rows_of(TransformerLM(deep, tokenizer)).forget, 0)


def whole(model, batch, layer):
    """What a full forward says a block puts out."""
    seen = []
    handle = (
        find_blocks(model, layer)
        .modules[layer]
        .register_forward_hook(
            lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    )
    model(input_ids=batch.ids, attention_mask=batch.attention)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_leaving_behind_a_block_and_starting_at_one_give_what_the_whole_model_has(tokenizer, family):
    model = make_family(family, tokenizer)
    batch = collate(rows_of(TransformerLM(model, tokenizer)).forget, 0)
    with torch.no_grad():
        expected = whole(model, batch, 1)
        assert torch.equal(block_output(model, batch, 1), expected)
        late = block_output_from(model, batch, 1, 1, block_output(model, batch, 0))
    real = batch.attention.bool()
    assert torch.allclose(late[real], expected[real], atol=1e-6)
    assert torch.equal(whole(model, batch, 1), expected), "the model is as it was"


def test_blocks_behind_and_below_are_not_run(deep, batch):
    run = []
    for i, block in enumerate(find_blocks(deep, 0).modules):
        block.mlp.register_forward_hook(lambda *_, i=i: run.append(i))
    entering = block_output(deep, batch, 1)
    assert run == [0, 1]
    run.clear()
    block_output_from(deep, batch, 3, 2, entering)
    assert run == [2, 3]


def test_gradients_from_a_kept_prefix_are_those_of_the_whole_model(tokenizer, deep, batch):
    rows = dict(enumerate(rows_of(TransformerLM(deep, tokenizer)).forget))
    found = []
    for first in (2, 0):
        states = HiddenRows(deep, rows, 3, first, 0, keep_reference=True).states(batch, list(rows))
        deep.zero_grad()
        states.square().mean().backward()
        found.append([deep.model.layers[i].mlp.down_proj.weight.grad.clone() for i in (2, 3)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_the_reference_is_what_the_model_says_before_anything_changes(tokenizer, deep, batch):
    rows = dict(enumerate(rows_of(TransformerLM(deep, tokenizer)).forget))
    kept = HiddenRows(deep, rows, 3, 2, 0, keep_reference=True)
    with torch.no_grad():
        assert torch.allclose(kept.reference(list(rows)), whole(deep, batch, 3)[batch.answer], atol=2e-5)
        assert torch.allclose(kept.states(batch, list(rows)), kept.reference(list(rows)), atol=2e-5)
    assert kept.bytes > 0


def test_the_first_trained_block_is_found_by_what_takes_a_gradient(deep):
    assert first_trained_block(deep, 0) == 0
    for name, parameter in deep.named_parameters():
        parameter.requires_grad_("layers.3." in name or "layers.4." in name)
    assert first_trained_block(deep, 0) == 3
    deep.model.norm.weight.requires_grad_(True)
    assert first_trained_block(deep, 0) == 0, "something outside the blocks trains"


def test_a_block_that_there_is_not_is_refused(deep, batch):
    with pytest.raises(ConfigError, match="layer 5: this model has blocks 0 to 4"):
        block_output(deep, batch, 5)


def test_an_architecture_that_cannot_start_late_runs_from_the_bottom(tokenizer, deep, batch, monkeypatch):
    monkeypatch.setattr(
        "expunge.models.hidden.block_output_from",
        lambda model, batch, layer, first, entering: block_output(model, batch, layer) + 1,
    )
    rows = dict(enumerate(rows_of(TransformerLM(deep, tokenizer)).forget))
    kept = HiddenRows(deep, rows, 3, 2, 0, keep_reference=False)
    assert kept.first == 0
    assert kept.bytes == 0
    with torch.no_grad():
        assert torch.allclose(kept.states(batch, list(rows)), whole(deep, batch, 3)[batch.answer])
