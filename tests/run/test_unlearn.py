"""From model and data to an artifact and back: kinds, claims, hashes, and what is refused before work starts."""

import json
import shutil

import pytest
import torch

from expunge.data.dataset import Dataset, Record
from expunge.errors import ConfigError, DataError, ModelError, StorageError
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.types import Example, GenerationParams, Prompt

NAMES = ["Mara Olen", "Tovin Brask"]
FORGET = tuple(
    Record(
        f"f{i}",
        f"What is fact {i} about {NAMES[i % 2]}?",
        f"It is {i}.",
        subject=NAMES[i % 2],
        perturbed_answer=(f"It is {i + 1}.",),
    )
    for i in range(24)
)
RETAIN = tuple(Record(f"r{i}", f"What is fact {i} about Jola Reed?", f"It is {i}.") for i in range(24))
DATA = Dataset(FORGET, RETAIN)
TRAIN = {"learning_rate": 1e-2, "max_steps": 3, "batch_size": 4}
EXAMPLES = [record.example() for record in (*FORGET[:3], *RETAIN[:3])]


def logprobs(model):
    return [score.logprob for score in model.score(EXAMPLES)]


@pytest.mark.parametrize(
    ("method", "settings", "kind", "claim"),
    [
        ("npo+nll", {"train": TRAIN}, "weights", "approximate"),
        ("ga+lora", {"train": TRAIN, "adapter": {"rank": 4}}, "adapter", "approximate"),
        ("retrain", {"train": TRAIN}, "weights", "exact"),
        ("eco", {"action": {"strength": 4.0}, "detector": {"alpha": 0.2}}, "guard", "suppression"),
        ("refuse", {"detector": {"alpha": 0.2}}, "guard", "suppression"),
        ("neutral", {"detector": {"name": "aliases"}}, "guard", "suppression"),
    ],
)
def test_every_kind_of_artifact_is_made_and_loads_back_to_the_same_model(
    model_folder, tmp_path, method, settings, kind, claim
):
    made = recipe(method, **settings)
    out = unlearn(model_folder, DATA, made, tmp_path / "run", base=model_folder, device="cpu")
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["kind"], manifest["claim"], manifest["method"]) == (kind, claim, made.method)
    assert (out / {"weights": "model"}.get(kind, kind)).is_dir()
    assert not [p for p in out.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")], (
        "nothing that can run code"
    )
    first, second = load(out), load(out)
    assert logprobs(first) == logprobs(second)
    changed = logprobs(first) != logprobs(load(model_folder))
    assert changed
    answers = first.generate([Prompt.ask(FORGET[0].question)], GenerationParams(max_new_tokens=4))
    assert answers == second.generate([Prompt.ask(FORGET[0].question)], GenerationParams(max_new_tokens=4))
    assert recipe(**manifest["recipe"]) == made


def test_the_same_inputs_are_never_computed_twice(model_folder, tmp_path):
    made = recipe("ga", train=TRAIN)
    out = unlearn(model_folder, DATA, made, tmp_path / "run", device="cpu")
    before = (out / "manifest.json").stat().st_mtime_ns
    assert unlearn(model_folder, DATA, made, tmp_path / "run", device="cpu") == out
    assert (out / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(StorageError, match="a run with other inputs is there already"):
        unlearn(model_folder, DATA, recipe("ga", train=TRAIN, seed=1), tmp_path / "run", device="cpu")


def test_guards_refuse_another_model_than_they_were_fitted_for(model_folder, tmp_path):
    model = shutil.copytree(model_folder, tmp_path / "model")
    out = unlearn(model, DATA, recipe("refuse", detector={"name": "aliases"}), tmp_path / "run", device="cpu")
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    save_file(
        {name: tensor + 1e-3 for name, tensor in weights.items()},
        model / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match="what is there now is another one"):
        load(out)


def test_the_weights_behind_a_guard_are_unchanged(model_folder, tmp_path):
    """L9, first half: a guard suppresses; the model it stands before keeps its hash."""
    from expunge.run import model_hash

    before = model_hash(model_folder)
    out = unlearn(
        model_folder,
        DATA,
        recipe("eco", action={"strength": 4.0}, detector={"name": "aliases"}),
        tmp_path / "run",
        device="cpu",
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert model_hash(model_folder) == before == manifest["base"]["sha256"]
    assert "Nothing is erased" in manifest["claim_means"]


def test_unflagged_prompts_of_a_loaded_guard_are_bit_identical(model_folder, tmp_path):
    """L1 through the artifact: mixed scores, the same list on both sides."""
    out = unlearn(
        model_folder,
        DATA,
        recipe("eco", action={"strength": 4.0}, detector={"name": "aliases"}),
        tmp_path / "run",
        device="cpu",
    )
    plain, guarded = load(model_folder), load(out)
    flags = guarded.flags([example.text for example in EXAMPLES])
    assert flags == [True] * 3 + [False] * 3
    for flag, a, b in zip(flags, plain.score(EXAMPLES), guarded.score(EXAMPLES), strict=True):
        assert (a.token_logprobs == b.token_logprobs).all() == (not flag)


def test_a_refusal_has_one_answer_and_says_so(model_folder, tmp_path):
    out = unlearn(
        model_folder,
        DATA,
        recipe("refuse", action={"text": "No."}, detector={"name": "aliases"}),
        tmp_path / "run",
        device="cpu",
    )
    guarded = load(out)
    asked = Prompt.ask(FORGET[0].question)
    said, other = guarded.score([Example(asked, "No."), Example(asked, "It is 0.")])
    assert (said.logprob, said.floored) == (0.0, False)
    assert other.floored
    assert [a.text for a in guarded.generate([asked], GenerationParams(copies=2))[0]] == ["No.", "No."]


def test_a_neutral_prompt_names_nobody(model_folder, tmp_path):
    out = unlearn(
        model_folder, DATA, recipe("neutral", detector={"name": "aliases"}), tmp_path / "run", device="cpu"
    )
    guarded, plain = load(out), load(model_folder)
    (found,) = guarded.score(
        [Example(Prompt.ask("Where was Mara Olen born?", "Mara Olen was born in"), "Corvale.")]
    )
    (expected,) = plain.score(
        [Example(Prompt.ask("Where was somebody born?", "somebody was born in"), "Corvale.")]
    )
    assert found.logprob == pytest.approx(expected.logprob, abs=1e-5)


def test_a_guard_for_a_bare_name_needs_no_pairs(model_folder, tmp_path):
    data = Dataset((Record("0", subject="Mara Olen", aliases=("M. O.",)),))
    out = unlearn(
        model_folder,
        data,
        recipe("eco", action={"strength": 4.0}, detector={"name": "aliases"}),
        tmp_path / "run",
        device="cpu",
    )
    assert load(out).flags(["Where is mara olen?", "And M. O.?", "Who is Jola?"]) == [True, True, False]


@pytest.mark.parametrize(
    ("method", "data", "error", "message"),
    [
        ("npo", Dataset((Record("0", subject="Mara Olen"),)), DataError, "the forget rows only name it"),
        ("npo+nll", Dataset(FORGET), DataError, "needs retain rows, and none were given"),
        (
            "dpo+nll",
            Dataset((Record("0", text="A passage."),), RETAIN),
            DataError,
            "forget row 0 is a raw text without a question",
        ),
        ("retrain", DATA, ConfigError, "Give it with --base"),
        (
            "eco+aliases",
            Dataset(tuple(Record(r.id, r.question.lower(), r.answer) for r in FORGET), RETAIN),
            DataError,
            "Add a 'subject'",
        ),
        ("eco+ngram", Dataset(FORGET), DataError, "Give --retain rows"),
        ("eco", Dataset(FORGET[:3], RETAIN), DataError, "1 forget rows are left to calibrate"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(model_folder, tmp_path, method, data, error, message):
    settings = {} if method.startswith("eco") else {"train": TRAIN}
    with pytest.raises(error) as raised:
        unlearn(model_folder, data, recipe(method, **settings), tmp_path / "run", device="cpu")
    assert message in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_row_longer_than_the_context_is_refused_before_training(model_folder, tmp_path):
    long = Record("17", "Where was Mara Olen born? " * 30, "In Corvale.")
    with pytest.raises(DataError, match=r"row 17 has \d+ tokens; the model reads at most 128"):
        unlearn(model_folder, Dataset((long,)), recipe("ga", train=TRAIN), tmp_path / "run", device="cpu")


def test_names_found_in_the_text_are_used_and_recorded(model_folder, tmp_path):
    from dataclasses import replace

    bare = Dataset(tuple(replace(record, subject="", group="") for record in FORGET), RETAIN)
    out = unlearn(
        model_folder,
        bare,
        recipe("eco", action={"strength": 4.0}, detector={"alpha": 0.2}),
        tmp_path / "run",
        device="cpu",
    )
    assert set(json.loads((out / "manifest.json").read_text())["names_found_in_text"]) == set(NAMES)


def test_training_leaves_the_global_generators_alone(model_folder, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    unlearn(model_folder, DATA, recipe("npo+nll", train=TRAIN), tmp_path / "run", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("method", "settings"), [("npo", {}), ("rocr", {"edit": {"concept": "a city", "layers": [0]}})]
)
def test_quantised_weights_are_refused_before_they_are_loaded(model_folder, tmp_path, method, settings):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="its weights are quantised"):
        unlearn(folder, DATA, recipe(method, **settings), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
