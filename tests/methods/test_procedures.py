"""Procedures: what is subtracted, and how long is trained (check C24)."""

import pytest
import torch

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError
from expunge.methods.procedures.task_vector import TaskVector
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.train.feed import Feed
from tests.methods.test_matrix import start


def tensors():
    torch.manual_seed(0)
    origin = {"a": torch.randn(4, 5), "b": torch.randn(3)}
    return origin, {name: value + 0.1 * torch.randn_like(value) for name, value in origin.items()}


def test_nothing_is_subtracted_at_alpha_zero_and_the_way_back_is_alpha_minus_one():
    """C24: θ at α = 0; linear in α; what was added comes off once at α = 1."""
    origin, reinforced = tensors()
    found = {}
    for alpha in (0.0, 1.0, 3.0):
        found[alpha] = {name: value.clone() for name, value in reinforced.items()}
        TaskVector(alpha=alpha).finish(found[alpha], origin)
    for name, value in origin.items():
        assert torch.equal(found[0.0][name], value)
        added = reinforced[name] - value
        assert torch.allclose(found[1.0][name], value - added, atol=1e-6)
        assert torch.allclose(found[3.0][name] - value, 3 * (found[1.0][name] - value), atol=1e-6)


def test_reinforcement_is_fine_tuning_on_the_forget_set_and_negation_forgets(model_folder, tmp_path):
    data = Dataset(
        (Record("f", "Where was Mara Olen born?", "Mara Olen was born in Corvale."),),
        (Record("r", "Who?", "Tovin."),),
    )
    settings = {"learning_rate": 1e-3, "max_steps": 5, "batch_size": 1}
    scored = {}
    example = [data.forget[0].example()]
    scored["target"] = load(model_folder).score(example)[0].logprob
    for alpha in (0.0, 1.0):
        out = unlearn(
            model_folder,
            data,
            recipe("task_vector", procedure={"alpha": alpha}, train=settings),
            tmp_path / str(alpha),
        )
        scored[alpha] = load(out).score(example)[0].logprob
    assert scored[0.0] == pytest.approx(scored["target"], abs=1e-5)
    assert scored[1.0] < scored["target"]


def test_a_task_vector_takes_nothing_else():
    made = recipe("task_vector", procedure={"alpha": 2.0})
    assert made.method == "task_vector"
    assert made.forget_weight == -1
    assert recipe(**made.describe()) == made
    for method in ("task_vector+npo", "task_vector+nll", "task_vector+lora", "task_vector+wga"):
        with pytest.raises(ConfigError, match="trains on the forget set once more"):
            recipe(method)


@pytest.mark.parametrize(("settings", "steps"), [({"epochs": 4}, 2), ({"epochs": 4, "max_steps": 10}, 5)])
def test_half_a_retraining_is_half_the_epochs_on_the_retain_set(tokenizer, settings, steps):
    from tests.methods.cases import Case

    model, _, rows, _ = start(tokenizer, Case("ga"))
    lengths = {}
    for method in ("retrain", "retrain_half"):
        made = recipe(method, train={"batch_size": 8, **settings})
        assert made.claim == "exact"
        lengths[method] = len(Feed(model, made, rows, 0).steps)
    assert lengths["retrain_half"] == steps == lengths["retrain"] / 2
