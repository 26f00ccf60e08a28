"""Plans against what a step really does."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, DataError, ModelError
from expunge.models.language_model import TransformerLM
from expunge.models.load import load_model, save_model
from expunge.recipes import recipe
from expunge.run.plan import plan
from expunge.train.feed import Feed, Rows
from expunge.train.loop import _Run
from expunge.train.statistics import mean_squares
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


RMU = {"objective": {"layer": 1, "size": 2.0}}
DOWN = {"selection": {"patterns": ["layers.1.mlp.down_proj"]}}
CASES = {
    "ga": {},
    "ga+nll": {},
    "npo+nll": {},
    "npo+nll+gru": {},
    "npo+kl": {},
    "rmu": RMU,
    "rmu+embed+layers": {**RMU, **DOWN},
    "ga+layers": {"selection": {"patterns": ["layers.[12].mlp"]}},
    "ga+lora": {},
    "npo+nll+wagle": {},
    "ihl+nll+fila": {"adapter": {"rank": 4}},
    "npo+kl+lora": {"adapter": {"rank": 64, "targets": ["q_proj", "v_proj"]}},
}


@pytest.mark.parametrize("method", CASES)
def test_the_operations_are_those_that_a_run_counts(wide, tokenizer, method):
    """Caches and one step. Torch counts products with padding too; a plan takes `up_proj` to lie behind `gate_proj`, `k` behind `q`."""
    folder, _ = wide
    made = recipe(method, **CASES[method], train={"batch_size": 4, "max_steps": 1})
    found = plan(folder, DATA, made)
    model, _, _ = load_model(folder, dtype="float32", device="cpu")
    encode = TransformerLM(model, tokenizer).encoder.examples
    rows = Rows(encode([r.example() for r in DATA.forget]), encode([r.example() for r in DATA.retain]))
    with FlopCounterMode(display=False) as counted:
        feed = Feed(model, made, rows, 0)
        if "adapter" in made.axes:
            made.axes["adapter"].attach(
                model, 0, lambda stream, weights: mean_squares(model, weights, getattr(rows, stream), 0)
            )
        _Run(model, feed, made, None, None)._step(feed.steps[0])
    assert found["steps"] == len(feed.steps) == 1
    assert found["operations"] == pytest.approx(counted.get_total_flops(), rel=0.06)


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
    assert plan(folder, DATA, both)["mib"]["gradients"] == round(12 * total / 2**20, 1)
    lora = plan(folder, DATA, recipe("npo+lora", adapter={"rank": 2, "targets": ["o_proj"]}))
    assert (lora["parameters"], lora["trained"]) == (total, 3 * 2 * (256 + 256))


def test_activations_wait_only_in_blocks_that_a_backward_reaches(wide):
    """`rmu` runs two blocks of three; where the second of them alone trains, one keeps its activations."""
    both, one = (
        plan(wide[0], DATA, recipe(method, **settings, train={"max_steps": 1}))["mib"]["activations"]
        for method, settings in (("rmu", RMU), ("rmu+layers", {**RMU, **DOWN}))
    )
    assert one == pytest.approx(both / 2, abs=0.1)
    assert both > 1


def test_what_unlearn_would_refuse_is_refused_before_anything_is_counted(wide):
    named = Dataset((Record("s", subject="Mara Olen"),), DATA.retain)
    with pytest.raises(DataError, match="the forget rows only name it"):
        plan(wide[0], named, recipe("ga", train={"max_steps": 3}))
    with pytest.raises(DataError, match="needs retain rows, and none were given"):
        plan(wide[0], Dataset(DATA.forget), recipe("npo+nll"))
    with pytest.raises(ModelError, match="'nowhere' is no folder here"):
        plan("nowhere", DATA, recipe("ga"))


def test_what_trains_nothing_or_asks_the_model_first_has_nothing_to_plan(wide):
    with pytest.raises(ConfigError, match="is a guard: it trains nothing"):
        plan(wide[0], DATA, recipe("eco"))
    with pytest.raises(ConfigError, match="is an edit: it trains nothing"):
        plan(wide[0], DATA, recipe("rocr", edit={"concept": "a city", "layers": [0]}))
    with pytest.raises(ConfigError, match="asks the model before each round"):
        plan(wide[0], DATA, recipe("unstar"))


def test_stages_add_up(wide):
    """Two requests take what their halves take; distillation adds its own steps."""
    train = {"epochs": 2, "batch_size": 2}
    whole = plan(wide[0], DATA, recipe("ga+continual", procedure={"requests": 2}, train=train))
    middle = len(DATA.forget) // 2
    halves = [
        plan(wide[0], Dataset(rows, DATA.retain), recipe("ga", train=train))
        for rows in (DATA.forget[:middle], DATA.forget[middle:])
    ]
    for name in ("steps", "tokens", "operations"):
        assert whole[name] == sum(half[name] for half in halves)
    alone = plan(wide[0], DATA, recipe("npo+nll", train=train))
    more = plan(wide[0], DATA, recipe("npo+nll+undo", procedure={"steps": 7}, train=train))
    assert more["steps"] == alone["steps"] + 7


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
