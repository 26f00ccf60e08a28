"""A guard as a whole: unflagged rows are the plain model's, it comes back as it was, and stands before its own model alone."""

import json

import numpy as np
import pytest

from expunge.artifacts import store
from expunge.data.dataset import Dataset
from expunge.errors import DataError, ModelError
from expunge.guards.guard import Guard
from expunge.guards.policy import Policy
from expunge.guards.state import read_state, write_state
from expunge.models.fresh import train_tokenizer
from expunge.models.load import save_model
from expunge.recipes import read_recipe, recipe
from expunge.run import load, unlearn
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import TEXTS, make_model
from tests.guards.cases import FORGET, RETAIN, TARGETS, fit_data, nothing_to_open

ASKED = [FORGET[0], RETAIN[0], FORGET[7], "the quick brown fox"]
FLAGS = [True, False, True, False]


@pytest.fixture(scope="module")
def run(model_folder, tmp_path_factory):
    data = fit_data()
    rows = Dataset(tuple(data.forget), tuple(data.retain))
    made = recipe("eco", action={"strength": 4.0}, detector={"alpha": 0.1})
    named = Dataset(
        (*rows.forget, *(type(rows.forget[0])(f"n{i}", subject=name) for i, name in enumerate(TARGETS))),
        rows.retain,
    )
    return unlearn(model_folder, named, made, tmp_path_factory.mktemp("guard") / "run", device="cpu")


def test_in_a_mixed_list_every_row_is_scored_and_answered_as_its_flag_says(run, model_folder):
    """L1 through load and the public contract."""
    guard, plain = load(run, device="cpu"), load(model_folder, device="cpu")
    assert guard.flags(ASKED) == FLAGS
    examples = [Example(Prompt.ask(text), "in Corvale.") for text in ASKED]
    for a, b, flag in zip(guard.score(examples), plain.score(examples), FLAGS, strict=True):
        assert np.array_equal(a.token_logprobs, b.token_logprobs) != flag
    for params in (
        GenerationParams(max_new_tokens=6),
        GenerationParams(max_new_tokens=6, beams=3),
        GenerationParams(max_new_tokens=6, sample=True, copies=2, seed=3),
    ):
        prompts = [Prompt.ask(text) for text in ASKED]
        for a, b, flag in zip(
            guard.generate(prompts, params), plain.generate(prompts, params), FLAGS, strict=True
        ):
            assert flag or a == b


def test_a_list_without_anything_in_scope_is_the_plain_models(run, model_folder):
    guard, plain = load(run, device="cpu"), load(model_folder, device="cpu")
    prompts = [Prompt.ask(text) for text in RETAIN[:5]]
    params = GenerationParams(max_new_tokens=6)
    assert guard.generate(prompts, params) == plain.generate(prompts, params)


def test_the_manifest_says_suppression_and_what_was_calibrated(run):
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["claim"] == "suppression"
    assert "Nothing is erased" in manifest["claim_means"]
    calibration = manifest["guard"]["calibration"]
    assert (calibration["forget_rows"], calibration["alpha"]) == (10, 0.1)


def test_another_tokenizer_is_refused(run, tokenizer):
    other = make_model(tokenizer)
    from expunge.models.language_model import TransformerLM

    lm = TransformerLM(other, train_tokenizer([text.upper() for text in TEXTS] * 4, 400))
    with pytest.raises(ModelError, match="fitted for another tokenizer"):
        Guard.load(run / "guard", lm, read_recipe("eco"), nothing_to_open)


def test_another_model_in_the_same_place_is_refused(tokenizer, tmp_path):
    save_model(make_model(tokenizer), tokenizer, tmp_path / "model")
    data = fit_data(folder=tmp_path)
    rows = Dataset(tuple(data.forget), tuple(data.retain))
    made = unlearn(
        tmp_path / "model",
        rows,
        recipe("refuse+ngram", detector={"alpha": 0.1}),
        tmp_path / "run",
        device="cpu",
    )
    assert load(made, device="cpu").flags(FORGET[:1]) == [True]
    save_model(make_model(tokenizer, num_hidden_layers=1), tokenizer, tmp_path / "model")
    with pytest.raises(ModelError, match="what is there now is another one"):
        load(made, device="cpu")


def test_a_detector_that_cannot_tell_lets_nothing_through(run, model_folder, tmp_path):
    """NaN in what it learnt: every prompt counts as in scope."""
    state = read_state(run / "guard")
    ngram = state["detector"]["state"]["ngram"]
    ngram["detection"]["state"]["intercept"] = float("nan")
    write_state(tmp_path / "guard", state)
    guard = Guard.load(
        tmp_path / "guard", load(model_folder, device="cpu"), read_recipe("eco"), nothing_to_open
    )
    assert guard.flags(ASKED) == [True] * 4


def test_fitting_again_with_the_same_inputs_does_nothing(run, model_folder):
    assert store.read_json(run / "manifest.json")["kind"] == "guard"
    before = (run / "manifest.json").stat().st_mtime_ns
    data = fit_data()
    named = Dataset(
        (*data.forget, *(type(data.forget[0])(f"n{i}", subject=name) for i, name in enumerate(TARGETS))),
        tuple(data.retain),
    )
    made = recipe("eco", action={"strength": 4.0}, detector={"alpha": 0.1})
    assert unlearn(model_folder, named, made, run, device="cpu") == run
    assert (run / "manifest.json").stat().st_mtime_ns == before


def test_several_guards_stand_before_one_model_that_is_loaded_once(run, model_folder, tmp_path, lm):
    data = fit_data()
    rows = Dataset(tuple(data.forget), tuple(data.retain))
    made = recipe("refuse+ngram", detector={"alpha": 0.1}, action={"text": "No."})
    second = unlearn(model_folder, rows, made, tmp_path / "second", device="cpu")
    policy = Policy(load(model_folder, device="cpu"))
    policy.add_guard("a", load(run, device="cpu", before=policy.model))
    policy.add_guard("b", load(second, device="cpu", before=policy.model))
    decided = policy.decide(ASKED[:3])
    assert [found.requests for found in decided] == [("a", "b"), (), ("a", "b")]
    answers = policy.generate([Prompt.ask(text) for text in ASKED[:3]], GenerationParams(max_new_tokens=4))
    assert [row[0].text == "No." for row in answers] == FLAGS[:3]
    with pytest.raises(DataError, match=r"before=policy\.model"):
        policy.add_guard("c", load(run, device="cpu"))
    with pytest.raises(ModelError, match="one made in memory"):
        load(run, device="cpu", before=lm)
    with pytest.raises(ModelError, match="under the template 'qa'"):
        load(run, device="cpu", before=load(model_folder, device="cpu", template="raw"))
