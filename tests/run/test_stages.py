"""Procedures of several stages: each is a whole run, and what lies between two of them survives a kill."""

import json

import pytest
import torch
from safetensors.torch import load_file

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, DataError, ModelError
from expunge.methods.procedures.undo import UNDO
from expunge.models.load import load_model
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Seed
from tests.conftest import make_model

FORGET = (
    Record("a", "Where was Mara Olen born?", "Mara Olen was born in Corvale.", group="Mara Olen"),
    Record("b", "What did the father of Tovin Brask do?", "He worked as a baker.", group="Tovin Brask"),
)
RETAIN = (
    Record("r", "Who taught Mara Brask?", "Mara Brask was taught by Tovin Olen."),
    Record("s", "Who?", "I cannot say."),
)
DATA = Dataset(FORGET, RETAIN)
TRAIN = {
    "learning_rate": 1e-3,
    "max_steps": 4,
    "batch_size": 1,
    "schedule": "constant",
    "checkpoint_every": 2,
}


def weights(run):
    return load_file(next((run / "model").glob("*.safetensors")))


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_continual_requests_are_runs_one_after_the_other(model_folder, tmp_path):
    made = recipe("npo+nll+continual", procedure={"requests": 2}, train=TRAIN)
    both = unlearn(model_folder, DATA, made, tmp_path / "both")
    plain = recipe("npo+nll", train=TRAIN)
    first = unlearn(model_folder, Dataset(FORGET[:1], RETAIN), plain, tmp_path / "first")
    second = unlearn(first, Dataset(FORGET[1:], RETAIN), plain, tmp_path / "second")
    assert same(weights(both), weights(second))
    manifest = json.loads((both / "manifest.json").read_text())
    assert [stage["stage"] for stage in manifest["stages"]] == ["request 1", "request 2"]
    assert manifest["steps"] == 8
    trace = [json.loads(line) for line in (both / "trace.jsonl").read_text().splitlines()]
    assert [entry["stage"] for entry in trace] == ["request 1"] * 4 + ["request 2"] * 4


def test_the_reference_of_a_later_request_is_what_was_asked_for(model_folder, tmp_path):
    """NPO's first loss of a request is (2/β) ln 2 exactly where the reference is the model as it stands."""
    found = {}
    for reference in ("now", "start"):
        made = recipe(
            "npo+continual",
            procedure={"requests": 2, "reference": reference},
            objective={"beta": 0.1},
            train=TRAIN,
        )
        out = unlearn(model_folder, DATA, made, tmp_path / reference)
        found[reference] = [
            json.loads(line)["forget_loss"] for line in (out / "trace.jsonl").read_text().splitlines()
        ]
    level = 20 * torch.tensor(2.0).log().item()
    assert found["now"][4] == pytest.approx(level, rel=1e-6)
    assert found["start"][:4] == found["now"][:4]
    example = [FORGET[1].example()]
    first = unlearn(
        model_folder, Dataset(FORGET[:1], RETAIN), recipe("npo", objective={"beta": 0.1}, train=TRAIN), tmp_path / "one"
    )  # fmt: skip
    gap = load(first).score(example)[0].logprob - load(model_folder).score(example)[0].logprob
    moved = -20 * torch.nn.functional.logsigmoid(torch.tensor(-0.1 * gap)).item()
    assert found["start"][4] == pytest.approx(moved, rel=1e-4)
    assert abs(gap) > 1e-3


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("npo+nll+continual", {"procedure": {"requests": 2, "reference": "start"}}),
        ("ga+lora+continual", {"procedure": {"requests": 2}}),
        ("npo+nll+undo", {"procedure": {"steps": 4}}),
    ],
)
@pytest.mark.parametrize("after", [3, 7])
def test_a_run_cut_short_in_any_stage_resumes_to_the_same_bytes(
    model_folder, tmp_path, method, settings, after
):
    made = recipe(method, train=TRAIN, **settings)
    whole = unlearn(model_folder, DATA, made, tmp_path / "whole")
    seen = 0

    def cut(what, done, total):
        nonlocal seen
        seen += 1
        if seen == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn(model_folder, DATA, made, tmp_path / "cut", progress=cut)
    assert not (tmp_path / "cut").exists()
    steps = []
    resumed = unlearn(
        model_folder, DATA, made, tmp_path / "cut", progress=lambda what, done, total: steps.append(what)
    )
    assert len(steps) < 8
    kind = "adapter" if "lora" in method else "model"
    files = [next((run / kind).glob("*.safetensors")) for run in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (whole / "trace.jsonl").read_text() == (resumed / "trace.jsonl").read_text()
    assert not list(resumed.glob("stage*"))


def test_more_requests_than_groups_are_refused(model_folder, tmp_path):
    with pytest.raises(DataError, match=r"requests is 3, but the forget rows belong to 2 groups"):
        unlearn(model_folder, DATA, recipe("ga+continual", train=TRAIN), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_noise_shrinks_matrices_and_leaves_norms(tokenizer):
    model = make_model(tokenizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    UNDO(alpha=0.5, beta=0.2).damage(model, Seed(1))
    noise = []
    for name, p in model.named_parameters():
        if p.dim() < 2:
            assert torch.equal(p, before[name])
            continue
        added = (p.detach() - 0.5 * before[name]) / (0.5 * 0.2)
        bound = (6 / sum(p.shape)) ** 0.5
        assert added.abs().max() <= bound * 1.001
        assert added.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        noise.append(added.flatten()[:8])
    assert not torch.equal(noise[0], noise[1])


def test_undo_teaches_back_what_the_unlearned_model_says(model_folder, tmp_path):
    losses = {}
    for alpha in (0.0, 0.3):
        made = recipe(
            "ga+nll+undo", procedure={"alpha": alpha, "steps": 30, "learning_rate": 3e-3}, train=TRAIN
        )
        out = unlearn(model_folder, DATA, made, tmp_path / str(alpha))
        trace = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
        losses[alpha] = [entry["retain_loss"] for entry in trace if entry["stage"] == "distil"]
    assert losses[0.0][0] == pytest.approx(0, abs=1e-5)
    assert losses[0.3][0] > 0.1
    assert losses[0.3][-1] < 0.5 * losses[0.3][0]


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("npo+nll+undo+lora", "'undo' changes every weight, so 'lora'"),
        ("npo+nll+undo+snip", "'undo' changes every weight, so 'snip'"),
    ],
)
def test_procedures_that_change_all_weights_take_nothing_that_holds_some(method, says):
    with pytest.raises(ConfigError, match=says):
        recipe(method)


def test_fila_with_the_adapter_off_as_reference_is_refused():
    with pytest.raises(ConfigError, match="is not the model it started from"):
        recipe("ihl+nll+fila+continual", procedure={"reference": "start"})


def test_an_adapter_run_is_no_model_to_go_on_from(model_folder, tmp_path):
    first = unlearn(model_folder, DATA, recipe("ga+lora", train=TRAIN), tmp_path / "first")
    with pytest.raises(ModelError, match="holds an adapter, not a whole model"):
        unlearn(first, DATA, recipe("ga", train=TRAIN), tmp_path / "second")


def test_select_gold_stops_where_the_retrained_model_is_reached_and_says_so(model_folder, tmp_path):
    made = recipe("ga", train={**TRAIN, "max_steps": 6, "probe_every": 1, "select": "gold"})
    assert "looking at the retrained model" in made.warnings[0]

    def probe(model, step):
        return {"gold_reached": step >= 3, "level_reached": False, "utility": 0.5}

    out = unlearn(model_folder, DATA, made, tmp_path / "out", probe=probe)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["steps"], manifest["chosen_step"], manifest["level_reached"]) == (3, 3, True)
    assert manifest["warnings"] == made.warnings

    def blind(model, step):
        return {"gold_reached": None, "level_reached": False, "utility": 0.5}

    with pytest.raises(ConfigError, match="no retrained model was given"):
        unlearn(model_folder, DATA, made, tmp_path / "blind", probe=blind)


def test_a_model_keeps_its_first_blocks(tokenizer, tmp_path):
    from expunge.models.hidden import keep_blocks
    from expunge.models.load import save_model

    model = make_model(tokenizer, num_hidden_layers=3)
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[2]
        wanted = model.lm_head(model.model.norm(states))
        keep_blocks(model, 2)
        assert torch.equal(model(ids).logits, wanted)
        save_model(model, tokenizer, tmp_path / "short")
        assert torch.equal(load_model(tmp_path / "short").model(ids).logits, wanted)
    with pytest.raises(ConfigError, match=r"blocks is 5, and this model has 2"):
        keep_blocks(model, 5)


def test_a_private_base_may_be_trained_on_rewritten_rows(model_folder, tmp_path):
    """DP2Unlearning with DP-MLM: what is trained on first is not the rows, and the manifest says how private they are."""
    from tests.models.test_masked import masked_folder

    masked = masked_folder(tmp_path / "masked")
    made = recipe(
        "dp2unlearning", data={"name": "dp_mlm", "model": str(masked)}, procedure={"epochs": 1}, train=TRAIN
    )
    out = unlearn(model_folder, DATA, made, tmp_path / "run", base=model_folder)
    manifest = json.loads((out / "manifest.json").read_text())
    assert [stage["stage"] for stage in manifest["stages"]] == ["base on rewritten rows", "fine-tuning"]
    assert manifest["shown"]["epsilon_per_word"] == 10
    assert manifest["shown"]["epsilon_of_the_longest_row"] >= 10
    assert "privacy" not in manifest["stages"][0]
