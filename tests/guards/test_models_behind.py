"""The same guard in front of quantised, adapted and dispatched models: unflagged rows untouched, no flagged row clean."""

import numpy as np
import pytest
import torch

from expunge.guards.actions.eco import ECO, FittedECO
from expunge.guards.target_names import TargetNames
from expunge.models.corrupted import CorruptedInputs
from expunge.models.language_model import TransformerLM
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import make_model

ASKED = ["Where was Mara Olen born?", "What did the father of Tovin Brask do?", "Who taught Mara Olen?"]
FLAGGED = [True, False, True]


class Int8Linear(torch.nn.Module):
    """Weights rounded to 8 bits, a scale an output; activations are left alone, so rows of a batch stay apart."""

    def __init__(self, linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = (linear.weight.detach() / self.scale).round().to(torch.int8)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


def eight_bits(tokenizer, model_folder, tmp_path):
    model = make_model(tokenizer)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                setattr(module, name, Int8Linear(child))
    return model


def four_bits(tokenizer, model_folder, tmp_path):
    pytest.importorskip("bitsandbytes", reason="the package bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model(tokenizer, hidden_size=128, num_key_value_heads=4).save_pretrained(tmp_path / "wide")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "wide", quantization_config=config).eval()


def adapted(tokenizer, model_folder, tmp_path):
    """LoRA on the attention and on the embedding itself, which is then part of what the hook-free shell reads."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "embed_tokens"], init_lora_weights=False)
    return get_peft_model(make_model(tokenizer, tie_word_embeddings=False), config).eval().get_base_model()


def dispatched(tokenizer, model_folder, tmp_path):
    """One layer lies on disk and is brought in when it runs."""
    from transformers import AutoModelForCausalLM

    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu",
              "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(
        model_folder, device_map=places, offload_folder=str(tmp_path / "offload")
    ).eval()


@pytest.fixture(params=[eight_bits, four_bits, adapted, dispatched], ids=lambda make: make.__name__)
def behind(request, tokenizer, model_folder, tmp_path):
    return TransformerLM(request.param(tokenizer, model_folder, tmp_path), tokenizer)


def test_unflagged_scores_and_answers_are_the_plain_models_and_flagged_ones_are_not(behind):
    guard = FittedECO(ECO(), TargetNames(["Mara Olen"]), behind, 3.0, 0, [])
    change = CorruptedInputs(guard)
    examples = [Example(Prompt.ask(text), "Mara Olen was born in Corvale.") for text in ASKED]
    plain, guarded = behind.score(examples), behind.score(examples, change, FLAGGED)
    for a, b, flag in zip(plain, guarded, FLAGGED, strict=True):
        assert np.array_equal(a.token_logprobs, b.token_logprobs) != flag
    prompts, params = [Prompt.ask(text) for text in ASKED], GenerationParams(max_new_tokens=8)
    plain, guarded = behind.generate(prompts, params), behind.generate(prompts, params, change, FLAGGED)
    assert plain[1] == guarded[1]


def test_what_enters_the_first_layer_is_the_corrupted_name(behind):
    guard = FittedECO(ECO(), TargetNames(["Mara Olen"]), behind, 3.0, 0, [])
    (row,) = behind.encoder.prompts([Prompt.ask(ASKED[0])])
    seen = []
    layer = behind.model.model.layers[0]
    handle = layer.input_layernorm.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].clone())
    )
    try:
        behind.generate(
            [Prompt.ask(ASKED[0])], GenerationParams(max_new_tokens=1), CorruptedInputs(guard), [True]
        )
    finally:
        handle.remove()
    with torch.no_grad():
        clean = behind.model.get_input_embeddings()(torch.tensor([row.ids]))
    mask = guard.prompt_mask(row)
    assert mask.any()
    assert not mask.all()
    changed = (seen[0] != clean)[0].any(-1).numpy()
    assert np.array_equal(changed, mask)
