"""Routed experts of four architectures: found, sliced, and their gates read as the blocks use them."""

import pytest
import torch

from expunge.data.batching import collate
from expunge.errors import ModelError
from expunge.models.experts import affinities, expert_layers, gates_of, recorded
from expunge.models.language_model import TransformerLM
from tests.methods.test_matrix import rows_of

SMALL = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, num_experts_per_tok=2, initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
FAMILIES = {
    "mixtral": dict(num_local_experts=4),
    "qwen2_moe": dict(
        num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=32, norm_topk_prob=False
    ),
    "qwen3_moe": dict(num_experts=4, moe_intermediate_size=32, head_dim=8, norm_topk_prob=True),
    "olmoe": dict(num_experts=4, norm_topk_prob=False),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def mixture(tokenizer, family="qwen3_moe", **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), **{**SMALL, **FAMILIES[family], **changes}
    )
    return AutoModelForCausalLM.from_config(config).eval()


def blocks(model):
    return [block for block in model.modules() if hasattr(block, "experts") and hasattr(block, "gate")]


@every_family
def test_every_routed_expert_is_found_and_no_shared_one(tokenizer, family):
    model = mixture(tokenizer, family)
    layers = expert_layers(model)
    parameters = dict(model.named_parameters())
    assert len(layers) == 3
    for number, layer in enumerate(layers):
        assert layer.router == f"model.layers.{number}.mlp.gate"
        assert list(layer.router_weights) == [f"{layer.router}.weight"]
        assert layer.count == 4
        assert all(parameters[name].shape == shape for name, shape in layer.tensors.items())
        assert not any("shared" in name for name in layer.tensors)
        masks = layer.masks([2])
        taken = sum(int(mask.sum()) for mask in masks.values())
        whole = sum(parameters[name].numel() for name in layer.tensors)
        assert taken == whole // 4 + 4 * 32, "a fourth of the experts, and the router"


@every_family
def test_the_gates_are_those_that_the_block_multiplies_by(tokenizer, family):
    """An output of the block put together from the recorded gates and each expert's own formula."""
    model = mixture(tokenizer, family)
    layer, block = expert_layers(model)[0], blocks(model)[0]
    x = torch.randn(1, 7, 32)
    with torch.no_grad(), recorded(model, [layer]) as seen:
        out = block(x)
        out = (out[0] if isinstance(out, tuple) else out)[0]
        expected = torch.zeros(7, 32)
        for i in range(4):
            gate, up = (x[0] @ block.experts.gate_up_proj[i].T).chunk(2, -1)
            said = (torch.nn.functional.silu(gate) * up) @ block.experts.down_proj[i].T
            expected += seen[layer.router][:, i : i + 1] * said
        if hasattr(block, "shared_expert"):
            expected += torch.sigmoid(block.shared_expert_gate(x[0])) * block.shared_expert(x[0])
    assert torch.allclose(out, expected, atol=1e-5)
    gates = seen[layer.router]
    assert ((gates > 0).sum(-1) == 2).all(), "zero beyond the top k"
    whole = (block.gate.weight @ x[0].T).T.softmax(-1)
    kept = whole * (gates > 0)
    if FAMILIES[family].get("norm_topk_prob", True):
        kept = kept / kept.sum(-1, keepdim=True)
    assert torch.allclose(gates, kept, atol=1e-6)


@every_family
def test_affinity_is_the_mean_over_rows_of_the_mean_over_their_tokens(tokenizer, family):
    """Row by row by hand; padding counts for nothing, nor does the length of a row."""
    model = mixture(tokenizer, family)
    rows = rows_of(TransformerLM(model, tokenizer)).forget
    found = affinities(model, rows, 0)
    layers = expert_layers(model)
    by_hand = torch.zeros(3, 4)
    for row in rows:
        batch = collate([row], 0)
        with torch.no_grad(), recorded(model, layers) as seen:
            model(batch.ids)
        by_hand += torch.stack([seen[layer.router].mean(0) for layer in layers]) / len(rows)
    assert torch.allclose(torch.stack([each.shares for each in found]).float(), by_hand, atol=1e-6)
    if FAMILIES[family].get("norm_topk_prob", True):
        assert torch.allclose(by_hand.sum(-1), torch.ones(3), atol=1e-6)


def test_a_router_of_another_kind_is_refused(tokenizer):
    model = mixture(tokenizer)
    block = blocks(model)[0]
    block.gate = torch.nn.Linear(32, 4, bias=False)
    with (
        recorded(model, expert_layers(model)),
        pytest.raises(
            ModelError,
            match=r"router model.layers.0.mlp.gate does not return \(logits, gates, which experts\)",
        ),
    ):
        block.gate(torch.randn(7, 32))


def test_experts_that_are_not_counted_by_their_first_axis_are_refused(tokenizer):
    model = mixture(tokenizer)
    blocks(model)[1].experts = torch.nn.ModuleList(torch.nn.Linear(32, 32) for _ in range(4))
    with pytest.raises(
        ModelError, match=r"experts in model.layers.1.mlp are not tensors whose first axis counts them"
    ):
        expert_layers(model)


def test_gates_outside_the_top_k_are_zero_and_the_others_keep_their_gradient(tokenizer):
    layer = expert_layers(mixture(tokenizer))[0]
    gates = torch.tensor([[0.6, 0.4], [0.7, 0.3]], requires_grad=True)
    found = gates_of((None, gates, torch.tensor([[1, 2], [3, 0]])), layer)
    assert torch.equal(found, torch.tensor([[0.0, 0.6, 0.4, 0.0], [0.3, 0.0, 0.0, 0.7]]))
    found[0, 1].backward()
    assert torch.equal(gates.grad, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
