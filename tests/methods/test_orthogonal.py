"""Orthogonal adapters: the penalty's zero and gradient, the first request as plain LoRA, many requests on disk (C26, C34)."""

import pytest
import torch

from expunge.methods.adapters._peft import load_adapters, lora_layers
from expunge.methods.adapters.orthogonal import Orthogonal
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.train.feed import Feed
from expunge.train.loop import train
from tests.conftest import make_model
from tests.methods.test_matrix import rows_of, step_gradient

SMALL = Orthogonal(rank=4, alpha=8)
SETTINGS = {"learning_rate": 1e-2, "max_steps": 3, "batch_size": 4, "weight_decay": 0.1, "clip_norm": None}


def adapted_model(tokenizer, requests, part=SMALL):
    adapted = part.attach(make_model(tokenizer), 0)
    for number in range(2, requests + 1):
        part.attach_next(adapted, number, 0)
    return adapted


def halves(adapted, which="lora_A"):
    """By layer, the halves of all requests in order."""
    return {
        name: [part.weight for part in getattr(layer, which).values()]
        for name, layer in lora_layers(adapted).items()
    }


def test_the_first_request_is_plain_lora_bit_for_bit(tokenizer):
    """C26, k = 1: trained weights and trace."""
    found = []
    for method in ("ga+orthogonal", "ga+lora"):
        made = recipe(method, adapter={"rank": 4, "alpha": 8}, train=SETTINGS)
        model = make_model(tokenizer)
        rows = rows_of(TransformerLM(model, tokenizer))
        feed = Feed(model, made, rows, 0)
        made.axes["adapter"].attach(model, 0)
        trace = train(model, feed, made).trace
        penalties = [entry.pop("penalty", None) for entry in trace]
        assert penalties == [0.0 if method == "ga+orthogonal" else None] * 3
        found.append((torch.cat([p.detach().reshape(-1) for p in model.parameters()]), trace))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_the_penalty_is_zero_exactly_when_the_row_spaces_are_orthogonal(tokenizer):
    """C26, in float64: orthogonal rows give nothing, one shared direction gives something."""
    adapted = adapted_model(tokenizer, 2).double()
    for old, new in halves(adapted).values():
        rows = torch.linalg.qr(torch.randn(old.shape[1], 8, dtype=torch.float64)).Q.T
        with torch.no_grad():
            old.copy_(torch.randn(4, 4, dtype=torch.float64) @ rows[:4])
            new.copy_(torch.randn(4, 4, dtype=torch.float64) @ rows[4:])
    assert SMALL.penalty(adapted).item() < 1e-26
    old, new = next(iter(halves(adapted).values()))
    with torch.no_grad():
        new[0] += 1e-3 * old[0]
    assert SMALL.penalty(adapted).item() > 1e-8


def test_the_penalty_by_hand_over_three_requests(tokenizer):
    """λ / layers times the sum over modules and earlier requests; the two earlier ones are not held against each other."""
    adapted = adapted_model(tokenizer, 3)
    total = 0.0
    for first, second, third in halves(adapted).values():
        for earlier in (first, second):
            for i in range(4):
                for j in range(4):
                    total += float(earlier[i].detach() @ third[j].detach()) ** 2
    assert SMALL.penalty(adapted).item() == pytest.approx(0.1 * total / 2, rel=1e-4)
    assert SMALL.penalty(adapted.get_base_model()).item() == SMALL.penalty(adapted).item()


def test_the_penalty_has_no_gradient_for_earlier_requests(tokenizer):
    adapted = adapted_model(tokenizer, 2)
    for parameter in adapted.parameters():
        parameter.requires_grad_(True)
    SMALL.penalty(adapted).backward()
    for old, new in halves(adapted).values():
        assert old.grad is None
        assert new.grad.abs().max() > 0
    assert all(b.grad is None for parts in halves(adapted, "lora_B").values() for b in parts)


def test_at_the_start_b_has_a_gradient_and_a_has_none(tokenizer):
    """C34, from the objective alone; the second request's penalty reaches its A."""
    made = recipe("ga+orthogonal", adapter={"rank": 4, "alpha": 8}, train=SETTINGS)
    for requests in (1, 2):
        model = make_model(tokenizer)
        rows = rows_of(TransformerLM(model, tokenizer))
        feed = Feed(model, made, rows, 0)
        adapted = SMALL.attach(model, 0)
        if requests == 2:
            SMALL.attach_next(adapted, 2, 0)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        assert all(("request-2" in name) == (requests == 2) for name in names)
        gradient, entry = step_gradient(model, feed, made)
        parts = dict(
            zip(names, gradient.split([model.get_parameter(name).numel() for name in names]), strict=True)
        )
        assert all((part == 0).all() == (requests == 1) for name, part in parts.items() if "lora_A" in name)
        assert all(part.abs().max() > 0 for name, part in parts.items() if "lora_B" in name)
        assert entry["penalty"] > 0 if requests == 2 else entry["penalty"] == 0


def test_a_second_request_starts_at_the_model_of_the_first_and_elsewhere(tokenizer):
    adapted = adapted_model(tokenizer, 1)
    lm = TransformerLM(adapted.get_base_model(), tokenizer)
    for b in (part for parts in halves(adapted, "lora_B").values() for part in parts):
        torch.nn.init.normal_(b, std=0.1)
    ids = torch.tensor([rows_of(lm).forget[0].ids])
    with torch.no_grad():
        before = adapted(ids).logits
        SMALL.attach_next(adapted, 2, 0)
        assert torch.equal(adapted(ids).logits, before)
    assert all(not torch.equal(old, new) for old, new in halves(adapted).values())
    again = halves(adapted_model(tokenizer, 2))
    assert all(torch.equal(new, again[name][1]) for name, (_, new) in halves(adapted).items())


def test_a_second_request_moves_only_its_own_adapter_and_comes_out_more_orthogonal(tokenizer):
    found = {}
    for weight in (0.0, 10.0):
        part = Orthogonal(rank=4, alpha=8, weight=weight)
        made = recipe("ga+nll+orthogonal", adapter=part.model_dump(), train={**SETTINGS, "max_steps": 8})
        model = make_model(tokenizer)
        rows = rows_of(TransformerLM(model, tokenizer))
        adapted = part.attach(model, 0)
        train(model, Feed(model, made, rows, 0), made)
        part.attach_next(adapted, 2, 0)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, Feed(model, made, rows, 0), made)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == ("request-2" not in name), name
        found[weight] = SMALL.penalty(model).item()
    assert found[10.0] < 0.5 * found[0.0]


def test_many_requests_are_saved_and_loaded_with_all_of_them_acting(tokenizer, tmp_path):
    adapted = adapted_model(tokenizer, 11).eval()
    for b in (part for parts in halves(adapted, "lora_B").values() for part in parts):
        torch.nn.init.normal_(b, std=0.05)
    adapted.save_pretrained(str(tmp_path))
    loaded = load_adapters(make_model(tokenizer), tmp_path).eval()
    ids = torch.tensor([rows_of(TransformerLM(adapted.get_base_model(), tokenizer)).forget[0].ids])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, adapted(ids).logits)
        assert not torch.allclose(loaded(ids).logits, make_model(tokenizer)(ids).logits, atol=1e-2)
        layer = next(iter(lora_layers(loaded).values()))
        assert list(layer.lora_A) == ["default", *(f"request-{number}" for number in range(2, 12))]
        assert not any(p.requires_grad for p in loaded.parameters())
        merged = loaded.merge_and_unload()
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)


def test_a_loaded_artifact_takes_the_next_request(tokenizer, tmp_path):
    adapted_model(tokenizer, 2).save_pretrained(str(tmp_path))
    loaded = load_adapters(make_model(tokenizer), tmp_path)
    SMALL.attach_next(loaded, 3, 0)
    trained = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trained
    assert all("request-3" in name for name in trained)


def test_plain_adapters_load_the_same_way(tokenizer, tmp_path):
    adapted = adapted_model(tokenizer, 1)
    for b in (part for parts in halves(adapted, "lora_B").values() for part in parts):
        torch.nn.init.normal_(b, std=0.05)
    adapted.save_pretrained(str(tmp_path))
    loaded = load_adapters(make_model(tokenizer), tmp_path)
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, adapted.eval()(ids).logits)
