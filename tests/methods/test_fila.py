"""FILA: the split is exact and the best of its rank, and the model starts where it was (checks C21, C22)."""

import pytest
import torch

from expunge.data.dataset import Dataset, Record
from expunge.methods.adapters.fila import FILA, split
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.train.statistics import mean_squares
from tests.conftest import make_model
from tests.methods.test_matrix import rows_of


@pytest.fixture
def weight():
    torch.manual_seed(0)
    return torch.randn(24, 40, dtype=torch.float64)


def test_base_and_adapter_together_are_the_weight(weight):
    """C21, identity."""
    a, b, residual = split(weight, torch.rand(24, dtype=torch.float64) + 0.1, 5, 2.0)
    assert (weight - residual - 2.0 * b @ a).abs().max() < 1e-12
    assert a.shape == (5, 40)
    assert b.shape == (24, 5)


def test_equal_importance_gives_the_truncated_svd(weight):
    a, b, _ = split(weight, torch.ones(24, dtype=torch.float64), 5, 2.0)
    u, sigma, v = torch.linalg.svd(weight, full_matrices=False)
    assert torch.allclose(2.0 * b @ a, u[:, :5] * sigma[:5] @ v[:5], atol=1e-12)


def test_the_weighted_error_is_the_tail_and_below_that_of_the_plain_svd(weight):
    s = 10 ** torch.linspace(-1, 1, 24, dtype=torch.float64)
    _, _, residual = split(weight, s, 5, 2.0)
    error = (s[:, None] * residual).square().sum()
    tail = torch.linalg.svdvals(s[:, None] * weight)[5:].square().sum()
    assert error.item() == pytest.approx(tail.item(), rel=1e-10)
    _, _, plain = split(weight, torch.ones(24, dtype=torch.float64), 5, 2.0)
    assert error < (s[:, None] * plain).square().sum()


def test_a_row_that_matters_to_nobody_does_not_explode(weight):
    s = torch.ones(24, dtype=torch.float64)
    s[3] = 0
    _, b, residual = split(weight, s, 5, 2.0)
    assert b.isfinite().all()
    assert (weight - residual).isfinite().all()


def test_large_weights_are_split_nearly_as_well_at_random():
    torch.manual_seed(0)
    weight = torch.randn(600, 20) @ torch.randn(20, 700) + 0.1 * torch.randn(600, 700)
    _, _, residual = split(weight, torch.ones(600), 20, 1.0)
    best = torch.linalg.svdvals(weight)[20:].square().sum()
    assert residual.square().sum().item() == pytest.approx(best.item(), rel=0.02)


def test_the_model_says_at_the_start_what_it_said_before(tokenizer):
    """C22."""
    model = make_model(tokenizer)
    lm = TransformerLM(model, tokenizer)
    rows = rows_of(lm)
    ids = torch.tensor([rows.forget[0].ids])
    with torch.no_grad():
        before = model(ids).logits
    adapted = FILA(rank=4, alpha=8).attach(
        model, 0, lambda stream, weights: mean_squares(model, weights, getattr(rows, stream), 0)
    )
    with torch.no_grad():
        assert torch.allclose(adapted(ids).logits, before, atol=1e-4)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert all(p.abs().max() > 0 for name, p in adapted.named_parameters() if "lora_" in name), (
        "both halves start at something"
    )


def test_the_artifact_is_whole_weights_that_stand_alone(model_folder, tmp_path):
    data = Dataset(
        (Record("f", "Where was Mara Olen born?", "Mara Olen was born in Corvale."),),
        (Record("r", "Who?", "Tovin."),),
    )
    settings = {"learning_rate": 1e-3, "max_steps": 5, "batch_size": 1}
    example = [data.forget[0].example()]
    assert recipe("loku").method == "ihl+nll+fila"
    made = recipe("ga+fila", adapter={"rank": 4, "alpha": 8}, train=settings)
    out = unlearn(model_folder, data, made, tmp_path / "run")
    assert (out / "model" / "model.safetensors").is_file()
    assert not (out / "adapter").exists()
    assert load(out).score(example)[0].logprob < load(model_folder).score(example)[0].logprob
