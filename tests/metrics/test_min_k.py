"""Min-K++ on worked values: three tokens over a vocabulary of three."""

import numpy as np
import pytest
import torch

from expunge.metrics.min_k import lowest_mean, standardised

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
TARGETS = np.array([0, 2, 1])


def test_the_golden_values():
    """log p: -0.407606, -0.094923, -1.098612; μ: -0.832396, -0.366594, -1.098612; σ²: 0.424405, 0.741208, 0."""
    assert standardised(LOGITS, TARGETS) == pytest.approx([0.652054, 0.315554, 0.0], abs=1e-6)


def test_mean_and_spread_are_those_of_a_categorical_distribution():
    """torch's entropy is -μ; drawing from the distribution gives z of mean 0 and variance 1."""
    logits = np.random.default_rng(0).normal(size=(1, 7)) * 2
    found = torch.distributions.Categorical(logits=torch.from_numpy(logits))
    z = np.array([standardised(logits, np.array([v]))[0] for v in range(7)])
    p = found.probs.numpy()[0]
    assert (p * z).sum() == pytest.approx(0, abs=1e-12)
    assert (p * z**2).sum() == pytest.approx(1, abs=1e-12)
    logp = found.logits.numpy()[0]
    sigma = ((p * logp**2).sum() - found.entropy().item() ** 2) ** 0.5
    assert z * sigma - found.entropy().item() == pytest.approx(logp)


def test_the_lowest_share_is_averaged_and_never_nothing():
    assert lowest_mean(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 0.4) == 1.5
    assert lowest_mean(np.array([3.0, 1.0]), 0.2) == 1.0
