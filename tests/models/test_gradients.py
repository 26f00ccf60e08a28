"""Gradient norms against transformers' own loss and a plain backward pass."""

import pytest
import torch

from expunge.models.gradients import gradient_norms
from expunge.models.language_model import TransformerLM
from expunge.types import Example, Prompt
from tests.conftest import make_model

EXAMPLES = [
    Example(Prompt.ask("Where was Mara Olen born?"), "Mara Olen was born in Corvale."),
    Example(Prompt.ask("What did the father of Tovin Brask do?"), "a baker"),
    Example(Prompt.ask("Who taught Mara Brask?"), "Mara Brask was taught by Tovin Olen, a librarian."),
]


def plain(tokenizer, example):
    """Mean over parameters of the norm, in double precision, of a model that is made for this alone."""
    model = make_model(tokenizer).double()
    lm = TransformerLM(model, tokenizer)
    head = lm.encoder.prompts([example.prompt])[0].ids
    whole = lm.encoder.examples([example])[0].ids
    assert whole[: len(head)] == head
    assert whole[-1] == tokenizer.eos_token_id, "the end token counts"
    ids = torch.tensor([whole])
    labels = ids.clone()
    labels[:, : len(head)] = -100
    model(input_ids=ids, labels=labels).loss.backward()
    norms = [float(parameter.grad.square().sum().sqrt()) for parameter in model.parameters()]
    assert len(norms) > 10
    return sum(norms) / len(norms)


def test_the_norm_is_the_mean_over_tensors_of_the_gradient_of_the_mean_loss_with_the_end_token(lm, tokenizer):
    found = gradient_norms(lm, EXAMPLES)
    assert found == pytest.approx([plain(tokenizer, example) for example in EXAMPLES], rel=1e-4)
    assert len(set(found)) == 3


def test_norms_leave_the_model_as_it_was(lm):
    frozen, *others = lm.model.parameters()
    frozen.requires_grad_(False)
    others[0].grad = torch.ones_like(others[0])
    first = gradient_norms(lm, EXAMPLES)
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in others)
    assert torch.equal(others[0].grad, torch.ones_like(others[0]))
    assert all(parameter.grad is None for parameter in [frozen, *others[1:]])
    assert gradient_norms(lm, EXAMPLES) == first
