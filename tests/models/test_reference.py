"""The reference cache says exactly what the frozen model would say (check C16)."""

import pytest
import torch

from expunge.data.batching import collate
from expunge.models.logprobs import answer_rows
from expunge.models.reference import Reference
from expunge.types import Example, Prompt, TokenView

TEXTS = [
    "Mara Olen was born in Corvale.",
    "He worked as a baker.",
    "I do not know.",
    "Tovin Brask taught Mara Olen in Corvale.",
]


@pytest.fixture
def rows(lm):
    return dict(enumerate(lm.encoder.examples([Example(Prompt.ask("Who?"), text) for text in TEXTS])))


def view_of(model, rows, keys):
    seen = answer_rows(model, collate([rows[key] for key in keys], 0))
    return seen, TokenView(seen.logp, seen.targets, seen.row, seen.length, len(keys), len(seen.logits))


@torch.no_grad()
def test_cached_scalars_tokens_and_logits_equal_a_live_reference(model, rows):
    reference = Reference(model, rows, frozenset({"ref_logp", "ref_tokens", "ref_logits"}), 0)
    keys = [2, 0, 3]
    seen, view = view_of(model, rows, keys)
    reference.fill(view, keys)
    assert torch.allclose(view.ref_logp, view.sequence_sum(seen.logp), atol=1e-5)
    assert torch.allclose(view.ref_token_logp, seen.logp, atol=1e-5)
    assert torch.allclose(view.ref_logits, seen.logits, atol=1e-5)


@torch.no_grad()
def test_the_cache_does_not_follow_the_model(model, rows):
    reference = Reference(model, rows, frozenset({"ref_logits"}), 0)
    before, view = view_of(model, rows, [0])
    for parameter in model.parameters():
        parameter.mul_(0.5)
    reference.fill(view, [0])
    assert torch.allclose(view.ref_logits, before.logits, atol=1e-5)


@torch.no_grad()
def test_scalars_computed_one_by_one_equal_a_batch(model, rows):
    single = Reference(model, rows, frozenset({"ref_logp"}), 0, batch_tokens=1)
    batched = Reference(model, rows, frozenset({"ref_logp"}), 0)
    views = [view_of(model, rows, list(rows))[1] for _ in range(2)]
    single.fill(views[0], list(rows))
    batched.fill(views[1], list(rows))
    assert torch.allclose(views[0].ref_logp, views[1].ref_logp, atol=1e-5)


@torch.no_grad()
def test_projecting_answer_rows_equals_projecting_everything(model, rows):
    batch = collate(list(rows.values()), 0)
    seen = answer_rows(model, batch)
    everything = model(input_ids=batch.ids, attention_mask=batch.attention).logits
    kept = everything[:, :-1][batch.answer[:, 1:]]
    assert torch.equal(seen.targets, batch.ids[batch.answer])
    assert torch.allclose(seen.logits, kept, atol=1e-6)


def test_the_cache_is_small_where_a_scalar_serves(model, rows):
    scalar = Reference(model, rows, frozenset({"ref_logp"}), 0)
    assert scalar.bytes == 4 * len(rows)
    assert Reference(model, rows, frozenset({"forget"}), 0).bytes == 0


@torch.no_grad()
def test_models_that_cap_their_logits_keep_their_cap(tokenizer):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from expunge.models.language_model import TransformerLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    encoder = TransformerLM(model, tokenizer).encoder
    rows = dict(enumerate(encoder.examples([Example(Prompt.ask("Who?"), text) for text in TEXTS])))
    reference = Reference(model, rows, frozenset({"ref_logits"}), 0)
    seen, view = view_of(model, rows, [1])
    reference.fill(view, [1])
    assert torch.allclose(view.ref_logits, seen.logits, atol=1e-5)
    assert view.ref_logits.abs().max() <= 2.0
