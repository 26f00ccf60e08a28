"""Training with differential privacy: the noise that a promise takes, gradients row by row, and what a step adds (check C30)."""

import math
import sys
import warnings

import pytest
import torch

from expunge.data.batching import collate
from expunge.data.tokenize import Encoded
from expunge.errors import ConfigError, ModelError, TrainingError
from expunge.methods.procedures.dp2unlearning import Privacy
from expunge.models.language_model import TransformerLM
from expunge.recipes import TrainSettings
from expunge.train import checkpoint, private
from expunge.train.private import noise_multiplier, privacy_facts, row_losses, train_private
from expunge.types import Seed
from tests.conftest import make_family, make_model
from tests.methods.test_matrix import rows_of

SEED = Seed(3)


def settings(group=1, epsilon=8.0, delta=1e-5, clip=1.0, **train):
    train = {"learning_rate": 0.5, "batch_size": 3, "max_steps": 4, "checkpoint_every": 2, **train}
    return Privacy(epsilon, delta, clip, group, TrainSettings(**train))


def run(tokenizer, privacy, folder=None, model=None, rows=None, **options):
    model = model or make_model(tokenizer)
    rows = rows or some_rows(model, tokenizer)
    outcome = train_private(model, rows, privacy, pad_id=0, seed=SEED, folder=folder, **options)
    return model, outcome


def some_rows(model, tokenizer):
    found = rows_of(TransformerLM(model, tokenizer))
    return [*found.forget, *found.retain]


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.fixture(autouse=True)
def noise(monkeypatch):
    """Noise that is quick to find; returns what it was asked for."""
    asked = []
    monkeypatch.setattr(private, "noise_multiplier", lambda *args: asked.append(args) or 0.7)
    return asked


@pytest.fixture
def quiet(monkeypatch, noise):
    """No noise, as for epsilon towards infinity."""
    monkeypatch.setattr(private, "noise_multiplier", lambda *args: 0.0)


TABLE = {
    1e-5: {0.5: 1.72, 1: 1.14, 8: 0.55, 10: 0.53, 100: 0.36},
    1e-12: {0.5: 2.84, 1: 1.75, 8: 0.70, 10: 0.64, 100: 0.36},
}
"""σ by δ and ε at q = .004 and 2500 steps."""


def spent(sigma, delta, orders):
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(sigma, 0.004, 2500)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return accountant.get_epsilon(delta=delta, alphas=orders)


@pytest.mark.parametrize("delta", TABLE)
def test_the_accountant_agrees_with_the_published_table(delta):
    """C30, to within .01. The table takes the best of the whole Rényi orders, from 2 on."""
    whole = [*range(2, 64), *(int(64 * 2 ** (i / 16)) for i in range(49))]
    for epsilon, sigma in TABLE[delta].items():
        assert spent(sigma + 0.01, delta, whole) < epsilon < spent(sigma - 0.01, delta, whole), epsilon


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-12), (8, 1e-5), (100, 1e-12)])
def test_the_noise_keeps_the_promise_and_no_more_than_that(epsilon, delta):
    """Orders below 2 need less noise than the table's at a large ε; a coarser grid never promises what does not hold."""
    sigma = noise_multiplier(epsilon, delta, 0.004, 2500)
    assert sigma <= TABLE[delta][epsilon] + 0.01
    assert 0.998 * epsilon <= spent(sigma, delta, private.ORDERS) <= epsilon


def test_a_person_of_several_rows_has_less_privacy_than_a_row(noise):
    """k · ε and k · e^((k-1)ε) · δ, by hand: 3 · .5 = 1.5 and 3 · e · 1e-5."""
    facts = privacy_facts(settings(group=3, epsilon=0.5, batch_size=1), 10)
    assert (facts["epsilon"], facts["delta"], facts["noise_multiplier"]) == (0.5, 1e-5, 0.7)
    assert noise == [(0.5, 1e-5, 0.1, 4)]
    assert facts["person"] == {"rows": 3, "epsilon": 1.5, "delta": pytest.approx(3e-5 * math.e)}
    assert privacy_facts(settings(group=20, epsilon=100.0), 10)["person"]["delta"] == 1.0
    epochs = settings(max_steps=None, epochs=10, batch_size=16)
    assert privacy_facts(epochs, 400)["steps"] == 250
    assert noise[-1] == (8.0, 1e-5, 0.04, 250)
    assert privacy_facts(epochs, 5)["sampling_rate"] == 1


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_row_by_row_are_those_of_each_row_alone(tokenizer, tied):
    """Tied embeddings get both of their parts, and Llama's norm has no rule of opacus's own."""
    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    model = make_model(tokenizer, tie_word_embeddings=tied).train()
    rows = some_rows(model, tokenizer)
    hooks = GradSampleHooks(model, loss_reduction="sum")
    with pytest.warns(UserWarning, match="Full backward hook is firing"):
        row_losses(model, collate(rows, 0)).sum().backward()
    found = {name: p.grad_sample for name, p in model.named_parameters()}
    hooks.cleanup()
    assert {tensor.shape[0] for tensor in found.values()} == {len(rows)}
    for i, row in enumerate(rows):
        model.zero_grad()
        row_losses(model, collate([row], 0)).sum().backward()
        for name, p in model.named_parameters():
            assert torch.allclose(found[name][i], p.grad, rtol=1e-4, atol=1e-6), name


def test_without_noise_and_clipping_it_is_plain_sgd_on_the_same_rows(tokenizer, quiet):
    """C30: epsilon towards infinity. The rows drawn are read off the sampler; the divisor is the expected number of rows."""
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler

    privacy = settings(clip=1e9)
    model, outcome = run(tokenizer, privacy)
    plain = make_model(tokenizer)
    rows = some_rows(plain, tokenizer)
    generator = torch.Generator().manual_seed(SEED.child("rows").number % 2**63)
    drawn = list(
        UniformWithReplacementSampler(
            num_samples=len(rows), sample_rate=3 / len(rows), generator=generator, steps=4
        )
    )
    assert [entry["rows"] for entry in outcome.trace] == [len(step) for step in drawn]
    assert len({len(step) for step in drawn}) > 1
    sgd = torch.optim.SGD(plain.parameters(), lr=0.5)
    for step in drawn:
        sgd.zero_grad()
        for i in step:
            (row_losses(plain, collate([rows[i]], 0)).sum() / 3).backward()
        sgd.step()
    assert torch.allclose(flat(model), flat(plain), atol=1e-5)
    assert not torch.allclose(flat(model), flat(make_model(tokenizer)), atol=1e-2)


@pytest.mark.parametrize("clip", [0.01, 0.5])
def test_no_row_moves_the_weights_by_more_than_its_share(tokenizer, quiet, clip):
    """One row, always drawn, without noise: a step of exactly η · C."""
    start = make_model(tokenizer)
    row = some_rows(start, tokenizer)[:1]
    model, outcome = run(tokenizer, settings(clip=clip, max_steps=1, batch_size=1), rows=row)
    assert float((flat(model) - flat(start)).norm()) == pytest.approx(0.5 * clip, rel=1e-3)
    assert outcome.trace[0]["clipped"] == 1.0


def test_a_step_that_draws_nothing_adds_noise_of_the_stated_size(tokenizer, monkeypatch):
    """40,000 weights, so their standard deviation is known to 1 %; each step has its own noise."""
    monkeypatch.setattr(private, "noise_multiplier", lambda *args: 1.7)
    plain = private._Steps.__call__
    monkeypatch.setattr(private._Steps, "__call__", lambda self, number, drawn: plain(self, number, []))
    start = make_model(tokenizer)
    moved = []
    for count in (1, 2):
        model, outcome = run(tokenizer, settings(clip=0.2, max_steps=count))
        assert outcome.trace[-1] == {"step": count, "rows": 0}
        moved.append((flat(model) - flat(start)) * 3 / 0.5)  # expected rows over the learning rate
    second = moved[1] - moved[0]
    assert len(second) > 20_000
    for noise in (moved[0], second):
        assert float(noise.std()) == pytest.approx(1.7 * 0.2, rel=0.02)
        assert abs(float(noise.mean())) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([moved[0], second]))[0, 1])) < 0.03


def test_micro_batches_do_not_change_the_result(tokenizer):
    whole, first = run(tokenizer, settings(clip=0.3))
    cut, second = run(tokenizer, settings(clip=0.3, micro_batch=1))
    assert torch.allclose(flat(whole), flat(cut), atol=1e-5)
    assert [e["loss"] for e in first.trace] == pytest.approx([e["loss"] for e in second.trace], rel=1e-4)


def test_a_run_cut_short_resumes_to_the_same_bytes_and_leaves_no_traces_in_the_model(tokenizer, tmp_path):
    straight, whole = run(tokenizer, settings(), tmp_path / "a")

    class Cut(Exception):
        pass

    def stop(done, total):
        assert total == 4
        if done == 3:
            raise Cut

    with pytest.raises(Cut):
        run(tokenizer, settings(), tmp_path / "b", progress=stop)
    assert checkpoint.load(tmp_path / "b" / "checkpoint").step == 2
    resumed, again = run(tokenizer, settings(), tmp_path / "b")
    assert torch.equal(flat(resumed), flat(straight))
    assert again.trace == whole.trace
    assert (again.steps, again.trained_share) == (4, 1.0)
    assert not any(vars(p) for p in straight.parameters())
    assert not any(module._backward_hooks or module._forward_hooks for module in straight.modules())
    assert not straight.training


def test_the_trajectory_is_measured_in_between(tokenizer):
    seen = []
    _, outcome = run(
        tokenizer, settings(probe_every=2), probe=lambda step: seen.append(step) or {"utility": 1.0}
    )
    assert seen == [0, 2, 4]
    assert [entry["step"] for entry in outcome.trace if "utility" in entry] == [0, 2, 4]


def test_frozen_tensors_stay_as_they_are(tokenizer):
    model = make_model(tokenizer)
    for name, p in model.named_parameters():
        p.requires_grad_("mlp" in name)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, outcome = run(tokenizer, settings(), model=model)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == ("mlp" not in name), name
    assert 0 < outcome.trained_share < 1


def test_another_dense_architecture_passes_the_check_of_its_gradients(tokenizer):
    model = make_family("gpt_neox", tokenizer)
    before = flat(model)
    run(tokenizer, settings(max_steps=1), model=model)
    assert not torch.equal(flat(model), before)


@pytest.mark.parametrize("family", ["qwen3_moe", "gemma2"])
def test_a_model_whose_rows_cannot_be_told_apart_is_refused(tokenizer, family):
    """Experts see tokens without their row; opacus has no way with Gemma's embedding, which holds a scale."""
    model = make_family(family, tokenizer)
    with pytest.raises(ModelError, match="gradients of single rows cannot be told apart"):
        run(tokenizer, settings(), model=model)
    assert not any(vars(p) for p in model.parameters())
    assert not model.training


def test_a_loss_that_is_no_number_stops_before_the_weights_change(tokenizer, monkeypatch):
    model = make_model(tokenizer)
    rows = some_rows(model, tokenizer)
    before = flat(model).clone()
    monkeypatch.setattr(private, "_refuse_wrong_gradients", lambda *args: None)
    plain = private.row_losses
    monkeypatch.setattr(private, "row_losses", lambda *args: plain(*args) * math.nan)
    with pytest.raises(TrainingError, match=r"step \d: the loss is nan.*\n.*procedure.learning_rate=0.05"):
        run(tokenizer, settings(), model=model, rows=rows)
    assert torch.equal(flat(model), before)


def test_what_is_missing_or_impossible_is_said(tokenizer, monkeypatch):
    with pytest.raises(ConfigError, match="no noise is enough for epsilon 1e-09"):
        noise_multiplier(1e-9, 1e-5, 0.1, 4)
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(ConfigError, match=r"pip install 'expunge\[dp\]'"):
        run(tokenizer, settings())
    assert isinstance(some_rows(make_model(tokenizer), tokenizer)[0], Encoded)
