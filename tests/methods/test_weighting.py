"""Token weights: limits, peaks and precision (check C6)."""

import pytest
import torch

from expunge.methods.objectives.ga import GA
from expunge.methods.weighting.key_tokens import KeyTokens
from expunge.methods.weighting.satimp import SatImp
from expunge.methods.weighting.wga import WGA
from tests.methods.toy import forget, gradient, view

LENGTHS = [3, 4]


@pytest.fixture
def logp():
    torch.manual_seed(0)
    return (-torch.rand(7, dtype=torch.float64) * 3).requires_grad_()


def test_satimp_without_exponents_is_gradient_ascent_and_without_the_second_is_wga(logp):
    seen = view(logp, LENGTHS)
    assert torch.equal(SatImp(beta1=0, beta2=0)(seen), torch.ones(7))
    assert torch.allclose(SatImp(beta1=3, beta2=0)(seen).double(), WGA(beta=3)(seen), atol=1e-6)
    assert torch.equal(WGA(beta=0)(seen), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("beta1", "beta2", "peak", "height"), [(5, 0.1, 0.98039, 0.61128), (5, 1, 0.83333, 0.06698)]
)
def test_satimp_peaks_where_its_exponents_say(beta1, beta2, peak, height):
    p = torch.linspace(1e-5, 1 - 1e-5, 200_001, dtype=torch.float64)
    w = SatImp(beta1=beta1, beta2=beta2)(view(p.log(), [len(p)]))
    assert p[w.argmax()].item() == pytest.approx(peak, abs=2e-4)
    assert w.max().item() == pytest.approx(height, abs=1e-4)


def test_one_minus_p_survives_where_bfloat16_would_round_it_away():
    """p = 0.9995 is 1 in bfloat16; the weight must be that of float32."""
    logp = torch.tensor([0.9995], dtype=torch.float64).log()
    w = SatImp(beta1=5, beta2=1)(view(logp.to(torch.float32), [1]))
    assert w.item() == pytest.approx(0.9995**5 * 0.0005, rel=1e-3)
    assert torch.tensor(0.9995).bfloat16() == 1


def test_no_gradient_flows_through_a_weight(logp):
    for weighting in (WGA(beta=2), SatImp()):
        w = weighting(view(logp, LENGTHS))
        assert not w.requires_grad
        found = gradient(GA()(forget(view(logp, LENGTHS)), w.double()), logp)
        assert torch.allclose(found, w.double() / 7)


def test_the_mean_divides_by_the_tokens_not_by_the_weights(logp):
    """Weights of 0.5 everywhere halve the loss."""
    seen = forget(view(logp, LENGTHS))
    half, full = (GA()(seen, torch.full((7,), w, dtype=torch.float64)) for w in (0.5, 1.0))
    assert half.item() == pytest.approx(full.item() / 2)


def test_only_key_tokens_count_and_the_rest_as_much_as_is_said(logp):
    seen = view(logp, LENGTHS)
    seen.key = torch.tensor([True, False, False, False, True, True, False])
    assert KeyTokens()(seen).tolist() == [1, 0, 0, 0, 1, 1, 0]
    assert KeyTokens(rest=0.25)(seen).tolist() == [1, 0.25, 0.25, 0.25, 1, 1, 0.25]
    assert torch.equal(KeyTokens(rest=1)(seen), torch.ones(7, dtype=torch.float64))
    found = gradient(GA()(forget(seen), KeyTokens()(seen)), logp)
    assert torch.equal(found != 0, seen.key), "the sentence around the fact is left alone"
    assert torch.allclose(found[seen.key], torch.tensor(1 / 7, dtype=torch.float64)), (
        "the mean is over all tokens"
    )
