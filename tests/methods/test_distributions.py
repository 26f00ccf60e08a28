"""Objectives over whole distributions, and weights against a reference, by their closed forms (checks C7 to C11)."""

import math

import pytest
import torch

from expunge.methods.objectives.ceu import CEU
from expunge.methods.objectives.flat import FLAT
from expunge.methods.objectives.flatten import Flatten
from expunge.methods.objectives.ga import GA
from expunge.methods.objectives.ihl import IHL
from expunge.methods.objectives.undial import UNDIAL
from expunge.methods.retain.primal_dual import PrimalDual
from expunge.methods.weighting.tnpo import TNPO
from expunge.methods.weighting.wtnpo import WTNPO
from expunge.types import Streams
from tests.methods.toy import forget, from_logits, gradient, relative, view

LENGTHS, VOCAB = [3, 4], 11
ones = torch.ones(7, dtype=torch.float64)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(7, VOCAB, dtype=torch.float64).mul(2).requires_grad_()


targets = torch.tensor([3, 0, 10, 5, 5, 1, 7])


def test_tnpo_is_npo_taken_token_by_token():
    """C7: ascent with TNPO's weight has the gradient of (2/β) softplus(β (log p - log p_ref)), meaned over tokens."""
    torch.manual_seed(1)
    logp = (-torch.rand(7, dtype=torch.float64) * 3).requires_grad_()
    seen = view(logp, LENGTHS)
    seen.ref_token_logp = -torch.rand(7, dtype=torch.float64) * 3
    found = gradient(GA()(forget(seen), TNPO(beta=1.3)(seen)), logp)
    link = (2 / 1.3 * torch.nn.functional.softplus(1.3 * (logp - seen.ref_token_logp))).mean()
    assert relative(found, gradient(link, logp)) < 1e-14
    seen.ref_token_logp = logp.detach()
    assert torch.equal(TNPO()(seen), ones)
    assert torch.allclose(WTNPO(alpha=1.5)(seen), (1.5 * logp.detach()).exp())
    assert torch.equal(WTNPO(alpha=0)(seen), TNPO()(seen))


def test_undial_at_zero_strength_does_nothing_at_the_reference(logits):
    """C8, first half."""
    seen = from_logits(logits, targets, LENGTHS)
    seen.ref_logits = logits.detach().clone()
    assert gradient(UNDIAL(strength=0)(forget(seen), ones), logits).abs().max() < 1e-15


def test_undial_with_a_large_strength_teaches_the_distribution_without_the_token(logits):
    """C8, second half: cross-entropy to the renormalised teacher; never below that teacher's entropy."""
    seen = from_logits(logits, targets, LENGTHS)
    seen.ref_logits = torch.randn(7, VOCAB, dtype=torch.float64)
    teacher = seen.ref_logits.softmax(-1).scatter(-1, targets[:, None], 0)
    teacher = teacher / teacher.sum(-1, keepdim=True)
    expected = -(teacher * logits.log_softmax(-1)).sum(-1).mean()
    found = UNDIAL(strength=200)(forget(seen), ones)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    entropy = -(teacher * teacher.clamp_min(1e-300).log()).sum(-1).mean()
    assert found >= entropy


def test_ceu_pushes_the_token_by_its_probability_and_keeps_the_proportions_of_the_rest(logits):
    """Gradient at y is p_y, at k is p_k - p_k / (1 - p_y), for every token but the first of an answer."""
    seen = from_logits(logits, targets, LENGTHS)
    found = gradient(CEU()(forget(seen), ones), logits)
    p = logits.detach().softmax(-1)
    p_y = p.gather(-1, targets[:, None])
    expected = (p - p / (1 - p_y)).scatter(-1, targets[:, None], p_y)
    expected[[0, 3]] = 0  # the first token of each answer
    assert torch.allclose(found, expected / 5, atol=1e-15)
    whole = gradient(CEU(skip_first=False)(forget(seen), ones), logits)
    assert (whole[[0, 3]].abs().sum(-1) > 0).all()


def test_the_inverted_hinge_has_its_bounds_and_its_closed_form_gradient(logits):
    """C9: in [0, 2]; gradients p_y (1 - p_y + p_v), -p_v (1 - p_v + p_y) and p_k (p_v - p_y), which sum to zero."""
    loss = IHL()(forget(from_logits(logits, targets, LENGTHS)), ones)
    assert 0 <= loss.item() <= 2
    found = gradient(loss, logits)
    p = logits.detach().softmax(-1)
    rival = p.scatter(-1, targets[:, None], -1).argmax(-1, keepdim=True)
    p_y, p_v = p.gather(-1, targets[:, None]), p.gather(-1, rival)
    expected = p * (p_v - p_y)
    expected = expected.scatter(-1, targets[:, None], p_y * (1 - p_y + p_v))
    expected = expected.scatter(-1, rival, -p_v * (1 - p_v + p_y))
    assert torch.allclose(found, expected / 7, atol=1e-15)
    assert found.sum(-1).abs().max() < 1e-15
    sure = torch.full((1, VOCAB), -50.0, dtype=torch.float64)
    sure[0, 3] = 50
    for target, value in ((3, 2.0), (4, 0.0)):
        at = from_logits(sure, torch.tensor([target]), [1])
        assert IHL()(forget(at), ones[:1]).item() == pytest.approx(value)


@pytest.mark.parametrize(
    ("divergence", "expected"), [("kl", 0.704837), ("tv", 0.259461), ("js", 0.452998), ("pearson", 0.9025)]
)
def test_flat_on_two_probabilities(divergence, expected):
    """C10: P_a = 0.2, P_f = 0.9; a mean of probabilities, so 0.1 and 0.3 serve as well as 0.2 twice."""
    learn = view(torch.tensor([0.1, 0.3], dtype=torch.float64).log(), [2])
    lose = view(torch.tensor([0.9, 0.9], dtype=torch.float64).log(), [2])
    found = FLAT(divergence=divergence)(Streams({"alternate": learn, "forget": lose}), ones[:2])
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("divergence", "best", "expected"),
    [
        ("kl", lambda p, q: 1 + (p / q).log(), 0.274887),
        ("tv", lambda p, q: 40 * (p - q).sign(), 0.3),
        ("js", lambda p, q: (p / q).log(), 0.132829),
        ("pearson", lambda p, q: 2 * (p / q - 1), 0.63),
    ],
)
def test_flats_bound_is_the_divergence_at_its_best_witness(divergence, best, expected):
    """C11: E_p[g*] - E_q[f*(g*)] reaches the f-divergence of (.5, .3, .2) and (.2, .3, .5)."""
    p, q = (torch.tensor(v, dtype=torch.float64) for v in ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5)))
    flat = FLAT(divergence=divergence)
    v = best(p, q)
    assert (p @ flat.witness(v) - q @ flat.conjugate(v)).item() == pytest.approx(expected, abs=1e-6)


def test_flattening_is_zero_where_all_logits_are_equal_and_ignores_a_shift(logits):
    level = torch.full((7, VOCAB), 3.7, dtype=torch.float64)
    assert Flatten()(forget(from_logits(level, targets, LENGTHS)), ones).item() < 1e-28
    loss = [Flatten()(forget(from_logits(z, targets, LENGTHS)), ones).item() for z in (logits, logits + 9)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-12)
    by_hand = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)  # max 6, mean 3
    assert Flatten()(forget(from_logits(by_hand, torch.tensor([0]), [1])), ones[:1]).item() == 9


def test_the_multiplier_follows_the_retain_loss_and_never_falls_below_zero():
    held = PrimalDual(limit=0.5, rate=2.0, start=1.0)
    memory = {}
    assert held.multiplier(memory) == 1
    for loss, expected in ((0.5, 1.0), (0.75, 1.5), (0.0, 0.5), (0.0, 0.0), (math.e, 2 * (math.e - 0.5))):
        held.learn(loss, memory)
        assert held.multiplier(memory) == pytest.approx(expected)
