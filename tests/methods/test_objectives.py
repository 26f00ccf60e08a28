"""Each forget objective against its formula, worked by hand, by autograd and by its limits. Double precision throughout."""

import math
from itertools import pairwise

import pytest
import torch

from expunge.methods.objectives.dpo import DPO
from expunge.methods.objectives.ga import GA
from expunge.methods.objectives.imitate import Imitate
from expunge.methods.objectives.npo import NPO
from expunge.methods.objectives.simnpo import SimNPO
from expunge.types import Streams
from tests.methods.toy import forget, gradient, relative, sums, view

LENGTHS = [3, 5, 4]


@pytest.fixture
def logp():
    torch.manual_seed(0)
    return (-torch.rand(sum(LENGTHS), dtype=torch.float64) * 2).requires_grad_()


@pytest.fixture
def ref(logp):
    torch.manual_seed(1)
    return sums(logp.detach(), LENGTHS) + torch.randn(3, dtype=torch.float64)


ones = torch.ones(sum(LENGTHS), dtype=torch.float64)


def test_gradient_ascent_is_minus_fine_tuning(logp):
    """Three tokens with log p -1, -2, -3: the loss is -2 and every token is pushed down by 1/3."""
    by_hand = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    loss = GA()(forget(view(by_hand, [1, 2])), torch.ones(3, dtype=torch.float64))
    assert loss.item() == -2
    assert torch.allclose(gradient(loss, by_hand), torch.full((3,), 1 / 3, dtype=torch.float64))
    fine_tuning = -logp.mean()
    assert torch.equal(gradient(GA()(forget(view(logp, LENGTHS)), ones), logp), -gradient(fine_tuning, logp))


def test_npo_is_two_over_beta_log_two_at_the_reference_with_the_gradient_of_summed_ascent(logp):
    """C2. For β = 0.1 the loss is 13.862944; the gradient is that of the mean summed log-probability."""
    at_reference = sums(logp.detach(), LENGTHS)
    loss = NPO(beta=0.1)(forget(view(logp, LENGTHS, at_reference)), ones)
    assert loss.item() == pytest.approx(2 / 0.1 * math.log(2), rel=1e-12)
    assert loss.item() == pytest.approx(13.862944, abs=1e-6)
    assert relative(gradient(loss, logp), gradient(sums(logp, LENGTHS).mean(), logp)) < 1e-12


def test_npo_becomes_gradient_ascent_as_beta_vanishes(logp, ref):
    """C1: the relative difference falls tenfold with β."""
    ascent = gradient(sums(logp, LENGTHS).mean(), logp)
    found = [
        relative(gradient(NPO(beta=b)(forget(view(logp, LENGTHS, ref)), ones), logp), ascent)
        for b in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    for larger, smaller in pairwise(found):
        assert larger / smaller == pytest.approx(10, rel=0.15)
    assert found[-1] < 1e-3


def test_npo_gradient_has_its_closed_form_weight(logp, ref):
    """C3: W = 2 p^β / (p^β + p_ref^β) on each row's gradient."""
    beta = 0.7
    s = sums(logp.detach(), LENGTHS)
    w = 2 * (beta * s).exp() / ((beta * s).exp() + (beta * ref).exp())
    expected = torch.repeat_interleave(w / 3, torch.tensor(LENGTHS))
    found = gradient(NPO(beta=beta)(forget(view(logp, LENGTHS, ref)), ones), logp)
    assert torch.allclose(found, expected, atol=1e-15)


def test_npo_weighs_rows_one_by_one_not_by_their_mean():
    """C5: rows of 5 and 25 tokens, each token one nat below the reference, weigh 0.755 and 0.152 at β = 0.1.

    The mean over the batch's tokens inside the link, as some public code has it, would weigh both 0.950.
    """
    logp = torch.full((30,), -1.0, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(2, dtype=torch.float64)
    found = 2 * gradient(NPO(beta=0.1)(forget(view(logp, [5, 25], zero)), ones[:1]), logp)
    assert [found[0].item(), found[-1].item()] == pytest.approx([0.755, 0.152], abs=5e-4)
    assert 2 * torch.sigmoid(torch.tensor(0.1 * -1)).item() == pytest.approx(0.950, abs=5e-4)


def test_simnpo_becomes_length_normalised_ascent_as_beta_vanishes(logp):
    """C4, first half: relative difference about 1e-4 at β = 1e-4."""
    mean = sums(logp, LENGTHS) / torch.tensor(LENGTHS)
    ascent = gradient(mean.mean(), logp)
    found = gradient(SimNPO(beta=1e-4)(forget(view(logp, LENGTHS)), ones), logp)
    assert relative(found, ascent) < 5e-4


def test_simnpo_gradient_has_its_closed_form_weight(logp):
    """C4, second half: (2/n) σ(β S/n + γ) on each row's gradient."""
    beta, gamma = 2.5, 0.3
    n = torch.tensor(LENGTHS)
    w = 2 / n * torch.sigmoid(beta * sums(logp.detach(), LENGTHS) / n + gamma)
    found = gradient(SimNPO(beta=beta, gamma=gamma)(forget(view(logp, LENGTHS)), ones), logp)
    assert torch.allclose(found, torch.repeat_interleave(w / 3, n), atol=1e-15)


def test_simnpo_does_not_see_the_length_of_an_answer():
    short = torch.tensor([-0.5, -1.5], dtype=torch.float64)
    loss = SimNPO(beta=2.0)
    assert loss(forget(view(short, [2])), ones[:2]) == loss(forget(view(short.repeat(2), [4])), ones[:4])


def test_dpo_is_two_over_beta_log_two_at_the_reference_and_prefers_the_alternate(logp):
    at_reference = sums(logp.detach(), LENGTHS)
    both = Streams(
        {"forget": view(logp, LENGTHS, at_reference), "alternate": view(logp, LENGTHS, at_reference)}
    )
    assert DPO(beta=0.1)(both, ones).item() == pytest.approx(2 / 0.1 * math.log(2), rel=1e-12)
    other = logp.detach().clone().requires_grad_()
    streams = Streams(
        {"forget": view(logp, LENGTHS, at_reference), "alternate": view(other, LENGTHS, at_reference)}
    )
    loss = DPO(beta=0.1)(streams, ones)
    assert (gradient(loss, logp) > 0).all(), "descending the loss lowers the answer to forget"
    assert (gradient(DPO(beta=0.1)(streams, ones), other) < 0).all()


def test_swapping_win_and_lose_negates_the_margin(logp, ref):
    logp = logp.detach()
    a, b = view(logp, LENGTHS, ref), view(logp * 0.5, LENGTHS, ref)
    forwards, backwards = (
        DPO(beta=1.0)(Streams({"forget": x, "alternate": y}), ones) for x, y in ((a, b), (b, a))
    )
    margins = (sums(logp * 0.5, LENGTHS) - ref) - (sums(logp, LENGTHS) - ref)
    assert forwards.item() == pytest.approx(float(2 * torch.nn.functional.softplus(-margins).mean()))
    assert backwards.item() == pytest.approx(float(2 * torch.nn.functional.softplus(margins).mean()))


def test_imitating_the_same_text_is_fine_tuning(logp):
    loss = Imitate()(Streams({"alternate": view(logp, LENGTHS)}), ones)
    assert loss.item() == pytest.approx(-logp.mean().item())
