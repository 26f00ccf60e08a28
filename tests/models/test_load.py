"""Model folders that cannot be used are refused before work starts, with what to do."""

import json
import shutil

import pytest

from expunge.errors import ConfigError, ModelError
from expunge.models.load import context_length, load_model


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "m")


def test_a_good_folder_loads_in_float32_on_a_cpu_and_says_why(folder):
    loaded = load_model(folder, device="cpu")
    assert str(loaded.model.dtype) == "torch.float32"
    assert loaded.dtype_reason.startswith("float32")
    assert context_length(loaded.model.config, loaded.tokenizer) == 128


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        load_model(tmp_path / "nowhere")


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"no config.json.*notes.txt"):
        load_model(tmp_path)


def test_pickled_weights_are_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin but no .safetensors[\s\S]*can run code"):
        load_model(folder)


def test_a_folder_without_weights_or_tokenizer_is_named(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer in it"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_model(folder)


def rewrite_tokenizer(folder, **changes):
    path = folder / "tokenizer_config.json"
    facts = json.loads(path.read_text())
    for name, value in changes.items():
        facts.pop(name, None) if value is None else facts.update({name: value})
    path.write_text(json.dumps(facts))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def test_a_tokenizer_without_eos_is_refused(folder):
    rewrite_tokenizer(folder, eos_token=None)
    with pytest.raises(ModelError, match=r"no eos token[\s\S]*tokenizer.eos_token ="):
        load_model(folder)


def test_a_tokenizer_without_pad_works_and_says_so(folder, lm):
    from expunge.models.language_model import TransformerLM
    from expunge.types import Example, Prompt

    rewrite_tokenizer(folder, pad_token=None)
    with pytest.warns(UserWarning, match="no pad token"):
        loaded = load_model(folder, device="cpu")
    examples = [
        Example(Prompt.ask("Who?"), "Mara Olen."),
        Example(Prompt.ask("Where was Mara Olen born?"), "In Corvale."),
    ]
    other = TransformerLM(loaded.model, loaded.tokenizer)
    assert [s.logprob for s in other.score(examples)] == [s.logprob for s in lm.score(examples)]


def test_a_damaged_file_is_a_message_not_a_traceback(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder)


def test_an_unknown_dtype_is_refused(folder):
    with pytest.raises(ConfigError, match="--dtype float33"):
        load_model(folder, dtype="float33")
