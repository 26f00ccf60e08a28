"""Retain terms: the KL to the starting model and plain fine-tuning."""

import pytest
import torch

from expunge.methods.retain.kl import KL
from expunge.methods.retain.nll import NLL
from tests.methods.toy import gradient, view


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(5, 11, dtype=torch.float64, requires_grad=True)


def seen(logits, reference):
    found = view(logits.log_softmax(-1)[:, 0], [2, 3], logits=logits)
    found.ref_logits = reference
    return found


def test_kl_and_its_gradient_vanish_at_the_reference(logits):
    """C12."""
    loss = KL()(seen(logits, logits.detach()))
    assert loss.item() == pytest.approx(0, abs=1e-15)
    assert gradient(loss, logits).norm() < 1e-15


def test_kl_is_the_forward_divergence_averaged_over_answer_tokens(logits):
    torch.manual_seed(1)
    reference = torch.randn(5, 11, dtype=torch.float64)
    expected = torch.nn.functional.kl_div(
        logits.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    found = KL()(seen(logits, reference))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert found.item() > 0


def test_nll_is_the_mean_over_tokens_not_over_rows():
    """Rows of one token at -1 and three at -3: the mean over tokens is 2.5, over rows it would be 2."""
    logp = torch.tensor([-1.0, -3.0, -3.0, -3.0])
    assert NLL()(view(logp, [1, 3])).item() == 2.5
