"""Newton scrub: exact on ridge regression, the low-rank solve is the dense one, and forgotten rows lose (check C28)."""

import pytest
import torch

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, DataError
from expunge.methods.edits.newton import Newton, deviation, newton_step
from expunge.methods.selection.codec import CODEC
from expunge.models.language_model import TransformerLM
from expunge.recipes import Recipe, recipe
from expunge.train.feed import Feed, Rows
from expunge.train.loop import train
from expunge.train.workbench import Workbench
from tests.conftest import make_model
from tests.methods.test_matrix import FORGET, RETAIN


def ridge(x, y, penalty):
    """The minimum of the mean of (x θ - y)² / 2, plus penalty/2 ||θ||²."""
    n, features = x.shape
    return torch.linalg.solve(x.T @ x / n + penalty * torch.eye(features, dtype=x.dtype), x.T @ y / n)


@pytest.mark.parametrize("gone", [1, 5])
def test_on_ridge_regression_the_scrub_is_retraining(gone):
    """Each row's loss holds its share of the penalty, as the paper's strongly convex losses do: g_z = x (x θ - y) + λ θ."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 8, dtype=torch.float64), torch.randn(60, dtype=torch.float64)
    theta, penalty = ridge(x, y, 0.1), 0.1
    pull = sum(x[i] * (x[i] @ theta - y[i]) + penalty * theta for i in range(gone))
    retrained = ridge(x[gone:], y[gone:], penalty)
    scrubbed = theta + newton_step(pull, x[gone:], penalty)
    assert (theta - retrained).abs().max() > 1e-3
    assert (scrubbed - retrained).abs().max() < 1e-14


def test_the_low_rank_solve_is_the_dense_one():
    torch.manual_seed(0)
    kept, pull = torch.randn(7, 50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    dense = torch.linalg.solve(kept.T @ kept / 7 + 1e-3 * torch.eye(50, dtype=torch.float64), pull / 7)
    assert ((newton_step(pull, kept, 1e-3) - dense).abs().max() / dense.abs().max()) < 1e-11


def test_the_certificates_noise_is_beyond_what_a_model_survives():
    assert deviation(100, 1, 0.01, 0.1, 0.01) == pytest.approx(6215, abs=0.5)
    with pytest.raises(ConfigError, match="needs epsilon and delta"):
        Newton.parse({"epsilon": 0.1}, "edit newton")


# --- on a model -------------------------------------------------------------------------------------------------------
def records(pairs, name):
    return tuple(Record(f"{name}{i}", question=q, answer=a) for i, (q, a) in enumerate(pairs))


DATA = Dataset(records(FORGET, "f"), records(RETAIN, "r"))


@pytest.fixture(scope="module")
def knowing(tokenizer):
    """The weights of a model that has learned all rows, but not to the last digit."""
    model = make_model(tokenizer)
    lm = TransformerLM(model, tokenizer)
    bench = Workbench(lm, DATA, Recipe(method="", axes={}))
    made = recipe("retrain", train={"learning_rate": 5e-3, "max_steps": 40, "batch_size": 8})
    train(model, Feed(model, made, Rows(retain=[*bench.rows.forget, *bench.rows.retain]), 0), made)
    return {name: value.clone() for name, value in model.state_dict().items()}


def bench_of(tokenizer, weights, selection, data=DATA):
    model = make_model(tokenizer)
    model.load_state_dict(weights)
    axes = {"selection": selection} if selection else {}
    return Workbench(TransformerLM(model, tokenizer), data, Recipe(method="", axes=axes))


def test_the_forget_rows_loss_rises_and_weights_outside_stay_bit_for_bit(tokenizer, knowing):
    selection = CODEC(samples=200, most=8)
    bench = bench_of(tokenizer, knowing, selection)
    facts = Newton(damping=0.1).apply(bench)
    assert facts["loss_after"]["forget"] > facts["loss_before"]["forget"] + 0.1
    moved = 0
    for name, parameter in bench.model.named_parameters():
        differs = (parameter != knowing[name]).reshape(len(parameter), -1).any(1).nonzero()[:, 0].tolist()
        assert set(differs) <= set(facts["rows"].get(name, [])), name
        moved += len(differs)
    assert moved == sum(len(rows) for rows in facts["rows"].values())
    assert moved <= 8
    assert facts["sigma"] == 0


def test_the_step_is_the_formula_on_gradients_taken_row_by_row(tokenizer, knowing):
    bench = bench_of(tokenizer, knowing, CODEC(samples=100, most=3))
    masks = bench.selection.pick(bench.model, bench)
    start = bench.weights(masks)
    forget, retain = (
        bench.gradients(rows, masks).double() for rows in (bench.rows.forget, bench.rows.retain)
    )
    hessian = retain.T @ retain / len(retain) + 0.1 * torch.eye(len(start), dtype=torch.float64)
    expected = torch.linalg.solve(hessian, forget.sum(0) / len(retain))
    Newton(damping=0.1).apply(bench)
    assert torch.allclose(bench.weights(masks).double() - start, expected, rtol=1e-3, atol=1e-6)


def test_noise_is_added_only_when_asked_for_and_is_the_seeds_own(tokenizer, knowing):
    found = []
    for _ in range(2):
        bench = bench_of(tokenizer, knowing, CODEC(samples=100, most=3))
        facts = Newton(damping=10.0, epsilon=10.0, delta=0.1).apply(bench)
        found.append(torch.cat([p.detach().reshape(-1) for p in bench.model.parameters()]))
    assert facts["sigma"] == pytest.approx(deviation(7, 4, 10.0, 10.0, 0.1))
    assert torch.equal(*found)


def test_without_picked_rows_or_text_it_is_refused(tokenizer, knowing):
    assert recipe("newton").axes["selection"] == CODEC()
    with pytest.raises(ConfigError, match=r"'random' scores single weights. Use codec\+newton"):
        recipe("random+newton")
    with pytest.raises(
        ConfigError, match="is an edit and rewrites the weights in one go, 'nll' belongs to a training"
    ):
        recipe("codec+newton+nll")
    nothing = Dataset(DATA.forget)
    with pytest.raises(DataError, match="needs forget and retain rows with text"):
        Newton().apply(bench_of(tokenizer, knowing, CODEC(), nothing))
