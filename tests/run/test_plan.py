"""Plans against what a step really does."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, DataError, ModelError
from expunge.models.language_model import TransformerLM
from expunge.models.load import save_model
from expunge.recipes import recipe
from expunge.run.plan import plan
from expunge.train.feed import Feed, Rows
from expunge.train.loop import _Run
from tests.cli.test_cli import expunge
from tests.conftest import make_model

DATA = Dataset(
    tuple(
        Record(f"f{i}", f"Where was Mara Olen born, {i}?", "Mara Olen was born in Corvale.") for i in range(4)
    ),
    tuple(Record(f"r{i}", f"Who taught Tovin Brask, {i}?", "Tovin Olen, a librarian.") for i in range(4)),
)


@pytest.fixture(scope="module")
def wide(tokenizer, tmp_path_factory):
    """Wide enough that its matrices are nearly all of the work."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    model = make_model(tokenizer, hidden_size=256, intermediate_size=1024, num_hidden_layers=3)
    save_model(model, tokenizer, folder)
    return folder, model


@pytest.mark.parametrize("method", ["ga", "npo+nll", "npo+kl"])
def test_the_operations_are_those_that_a_step_counts(wide, tokenizer, method):
    folder, model = wide
    made = recipe(method, train={"batch_size": 4, "max_steps": 1})
    found = plan(folder, DATA, made)
    lm = TransformerLM(model, tokenizer)
    encode = lm.encoder.examples
    rows = Rows(encode([r.example() for r in DATA.forget]), encode([r.example() for r in DATA.retain]))
    with FlopCounterMode(display=False) as counted:
        feed = Feed(model, made, rows, 0)
        _Run(model, feed, made, None, None)._step(feed.steps[0])
    assert found["steps"] == len(feed.steps) == 1
    assert found["operations"] == pytest.approx(counted.get_total_flops(), rel=0.15)


def test_memory_is_that_of_weights_gradients_and_moments(wide):
    folder, model = wide
    total = sum(p.numel() for p in model.parameters())
    found = plan(folder, DATA, recipe("npo+nll", train={"batch_size": 4, "max_steps": 1}))
    assert found["parameters"] == found["trained"] == total
    assert found["mib"]["weights"] == round(4 * total / 2**20, 1)
    assert found["mib"]["optimiser"] == round(8 * total / 2**20, 1)
    layers = recipe("npo+nll+layers", selection={"patterns": ["layers.0."]}, train={"max_steps": 1})
    only = sum(p.numel() for name, p in model.named_parameters() if "layers.0." in name)
    assert plan(folder, DATA, layers)["trained"] == only
    both = recipe("npo+nll+gru", train={"max_steps": 1})
    assert plan(folder, DATA, both)["mib"]["gradients"] == round(8 * total / 2**20, 1)


def test_what_unlearn_would_refuse_is_refused_before_anything_is_counted(wide):
    named = Dataset((Record("s", subject="Mara Olen"),), DATA.retain)
    with pytest.raises(DataError, match="the forget rows only name it"):
        plan(wide[0], named, recipe("ga", train={"max_steps": 3}))
    with pytest.raises(DataError, match="needs retain rows, and none were given"):
        plan(wide[0], Dataset(DATA.forget), recipe("npo+nll"))
    with pytest.raises(ModelError, match="'nowhere' is no model folder here"):
        plan("nowhere", DATA, recipe("ga"))


def test_a_guard_has_nothing_to_plan(wide):
    with pytest.raises(ConfigError, match="it trains nothing"):
        plan(wide[0], DATA, recipe("eco"))


def test_the_verb_prints_one_json_document(wide, tmp_path):
    forget = tmp_path / "forget.jsonl"
    forget.write_text(
        "".join(json.dumps({"question": r.question, "answer": r.answer}) + "\n" for r in DATA.forget)
    )
    found = expunge(
        "plan", wide[0], "--forget", forget, "--method", "ga", "--set", "train.max_steps=3", "--json"
    )
    assert json.loads(found.stdout)["steps"] == 3
    shown = expunge("plan", wide[0], "--forget", forget, "--method", "npo", "--set", "train.max_steps=3")
    assert "3 steps" in shown.stdout
    assert "more for small models" in shown.stdout
    assert torch.get_num_threads() == 1
