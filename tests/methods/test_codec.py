"""CODEC: 1 for a function, 0 for independence, also under a condition, and the rows it picks (check C27)."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from expunge.data.batching import collate
from expunge.data.dataset import Dataset, Record
from expunge.errors import DataError
from expunge.methods.selection.codec import CODEC, blanket, dependence, spread
from expunge.models.activations import linear_layers, watched
from expunge.models.language_model import TransformerLM
from expunge.models.logprobs import answer_rows
from expunge.recipes import Recipe
from expunge.train.workbench import Workbench
from tests.conftest import make_model

N = 4000


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((N, 3))


def test_a_function_gives_one_and_independence_zero(noise):
    """The finite-sample values of the specs, 0.997 and -0.008."""
    z, other, _ = noise.T
    assert dependence(np.sin(3 * z), z) == pytest.approx(0.997, abs=0.002)
    assert dependence(other, z) == pytest.approx(0, abs=0.03)


def test_under_a_condition_what_is_left_to_explain_counts(noise):
    """0.973 for y = x + z given x; about 0 where z adds nothing."""
    x, z, irrelevant = noise.T
    assert dependence(x + z, z, x[:, None]) == pytest.approx(0.973, abs=0.01)
    assert dependence(x + z, irrelevant, x[:, None]) == pytest.approx(0, abs=0.05)


def test_it_is_the_published_formula_with_scipys_neighbours(noise):
    x, z, _ = noise[:500].T
    y = x + 0.5 * z
    n, r = len(y), rankdata(y, "max")
    at_least = np.array([(y >= value).sum() for value in y])
    m = cKDTree(np.stack([z], 1)).query(np.stack([z], 1), 2)[1][:, 1]
    plain = (n * np.minimum(r, r[m]) - at_least**2).sum() / (at_least * (n - at_least)).sum()
    assert dependence(y, z) == pytest.approx(plain, abs=1e-6)
    near = cKDTree(x[:, None]).query(x[:, None], 2)[1][:, 1]
    both = np.stack([x, z], 1)
    m = cKDTree(both).query(both, 2)[1][:, 1]
    given = (np.minimum(r, r[m]) - np.minimum(r, r[near])).sum() / (r - np.minimum(r, r[near])).sum()
    assert dependence(y, z, x[:, None]) == pytest.approx(given, abs=1e-6)


def test_forward_selection_finds_the_causes_and_stops():
    features = np.random.default_rng(1).standard_normal((600, 40))
    y = features[:, 3] + features[:, 20] ** 2
    found = blanket(spread(features, 0), y, 10)
    assert found[:2] == [3, 20]
    assert len(found) <= 4
    assert blanket(spread(features, 0), y, 1) == [3]


def test_ties_and_scales_decide_nothing():
    """A neuron that is always the same is never near anything, and a large one is not nearer than a small one."""
    generator = np.random.default_rng(2)
    features = generator.standard_normal((600, 6))
    features[:, 1] = 0.0
    features[:, 2] *= 1e4
    y = features[:, 0] + features[:, 4]
    found = blanket(spread(features, 0), y, 2)
    assert sorted(found) == [0, 4]
    scaled = spread(features, 0)
    assert np.allclose(scaled[:, [0, 2]].std(0), 1, atol=1e-3)
    assert len(np.unique(scaled[:, 1])) == 600


# --- on a model -------------------------------------------------------------------------------------------------------
ROWS = tuple(
    Record(f"f{i}", question=q, answer=a)
    for i, (q, a) in enumerate(
        [("Where was Mara Olen born?", "In Corvale."), ("Who taught Mara Brask?", "Tovin Olen, a librarian.")]
    )
)


@pytest.fixture
def bench(lm):
    return Workbench(lm, Dataset(ROWS), Recipe(method="", axes={}))


def test_whole_rows_of_linear_layers_are_picked(bench):
    masks = CODEC(samples=200, most=5).pick(bench.model, bench)
    layers = linear_layers(bench.model)
    assert "lm_head" not in layers
    rows = 0
    for name, mask in masks.items():
        assert name.removesuffix(".weight") in layers
        assert mask.dtype == torch.bool
        assert mask.shape == bench.model.get_parameter(name).shape
        assert torch.equal(mask.any(1), mask.all(1))
        rows += int(mask.any(1).sum())
    assert 1 <= rows <= 5
    again = CODEC(samples=200, most=5).pick(bench.model, bench)
    assert all(torch.equal(masks[name], again[name]) for name in masks)


def test_biases_go_with_their_rows(tokenizer):
    lm = TransformerLM(make_model(tokenizer, mlp_bias=True, attention_bias=True), tokenizer)
    bench = Workbench(lm, Dataset(ROWS), Recipe(method="", axes={}))
    masks = CODEC(samples=200, most=4).pick(bench.model, bench)
    for name in [name for name in masks if name.endswith(".weight")]:
        assert torch.equal(masks[name].any(1), masks[name.replace(".weight", ".bias")])


def test_measurements_are_means_over_the_rows_own_tokens_and_losses_of_their_own_answers(bench):
    """Without swaps a sample is its row: the loss is the row's, and a feature the mean of the layer's outputs."""
    seen = bench.perturbed(5, 0)
    layers = linear_layers(bench.model)
    name = next(iter(layers))
    for sample in range(5):
        row = bench.rows.forget[sample % 2]
        with watched({name: layers[name]}, "output") as out:
            found = answer_rows(bench.model, collate([row], 0))
        assert seen.losses[sample] == pytest.approx(-float(found.logp.sum().detach()), rel=1e-5)
        assert torch.allclose(seen.features[sample, : seen.layers[name]], out[name][0].mean(0), atol=1e-5)
    assert seen.features.shape == (5, sum(seen.layers.values()))
    assert bench.perturbed(20, 1).losses.std() > 0


def test_a_loss_that_depends_on_nothing_is_refused(bench):
    class Flat:
        seed = bench.seed

        def perturbed(self, samples, swaps):
            seen = bench.perturbed(samples, swaps)
            return seen._replace(
                features=torch.zeros_like(seen.features), losses=torch.zeros_like(seen.losses)
            )

    with pytest.raises(DataError, match="depends on no single neuron"):
        CODEC(samples=50).pick(bench.model, Flat())
