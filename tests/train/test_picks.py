"""A selection that picks from tensors in part: masks are kept bit for bit, over weight decay and interruptions."""

from typing import ClassVar

import pytest
import torch

from expunge.config import Settings
from expunge.errors import ConfigError
from expunge.models.language_model import TransformerLM
from expunge.recipes import recipe
from expunge.train.feed import Feed
from expunge.train.loop import train
from tests.conftest import make_model
from tests.methods.test_matrix import rows_of

ROWS, WHOLE = "model.layers.1.mlp.down_proj.weight", "model.norm.weight"


class FirstRows(Settings):
    """Some rows of one tensor and all of another."""

    needs: ClassVar = frozenset()
    count: int = 3

    def pick(self, model, feed):
        assert all(p.requires_grad for p in model.parameters()), "asked of the starting model, whole"
        assert feed.rows.forget
        weights = dict(model.named_parameters())
        rows = torch.zeros(weights[ROWS].shape, dtype=torch.bool)
        rows[: self.count] = True
        return {ROWS: rows, WHOLE: torch.full(weights[WHOLE].shape, self.count > 0)}


def run(tokenizer, method="npo+nll", folder=None, progress=None, model=None, **picked):
    made = recipe(
        method,
        train={
            "learning_rate": 1e-2, "max_steps": 6, "batch_size": 2, "weight_decay": 0.5, "checkpoint_every": 2
        },
    )  # fmt: skip
    made = made.model_copy(update={"axes": {**made.axes, "selection": FirstRows(**picked)}})
    model = model or make_model(tokenizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    feed = Feed(model, made, rows_of(TransformerLM(model, tokenizer)), 0)
    return model, before, train(model, feed, made, folder=folder, progress=progress)


@pytest.mark.parametrize("method", ["npo+nll", "npo+nll+gru", "ga+kl"])
def test_only_what_was_picked_moves_bit_for_bit_under_weight_decay(tokenizer, method):
    model, before, outcome = run(tokenizer, method)
    for name, parameter in model.named_parameters():
        if name == ROWS:
            assert torch.equal(parameter[3:], before[name][3:])
            assert (parameter[:3] != before[name][:3]).float().mean() > 0.9
        else:
            assert torch.equal(parameter, before[name]) == (name != WHOLE), name
    total = sum(p.numel() for p in model.parameters())
    assert outcome.trained_share == (3 * 64 + 32) / total
    assert "penalty" not in outcome.trace[0]


def test_a_run_cut_short_resumes_to_the_same_bytes(tokenizer, tmp_path):
    class Cut(Exception):
        pass

    def stop(done, total):
        if done == 3:
            raise Cut

    straight, _, whole = run(tokenizer, folder=tmp_path / "a")
    with pytest.raises(Cut):
        run(tokenizer, folder=tmp_path / "b", progress=stop)
    resumed, _, again = run(tokenizer, folder=tmp_path / "b")
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, straight.get_parameter(name)), name
    assert again.trace == whole.trace
    assert again.trained_share == whole.trained_share


def test_a_later_stage_picks_anew_from_the_whole_model(tokenizer):
    model, _, _ = run(tokenizer)
    model, before, _ = run(tokenizer, model=model, count=5)
    moved = (dict(model.named_parameters())[ROWS] != before[ROWS]).any(1)
    assert moved.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_selection_that_picks_nothing_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="nothing of this model was picked"):
        run(tokenizer, count=0)
