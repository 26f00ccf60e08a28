"""Adapters weighed row by row: nothing at weight 0, peft's own model at weight 1, and the same rule for scores and answers."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from expunge.data.batching import collate
from expunge.errors import ModelError
from expunge.methods.adapters._peft import load_adapters, with_lora
from expunge.methods.adapters.orthogonal import Orthogonal
from expunge.models.intervention import Asked
from expunge.models.language_model import TransformerLM
from expunge.models.scaled_adapters import ScaledAdapters, read_adapter
from expunge.types import Example, GenerationParams, Prompt
from tests.conftest import make_family, make_model

ASKED = [
    "Where was Mara Olen born?",
    "What did the father of Tovin Brask do?",
    "Who taught Mara Brask in Corvale, and who taught Tovin Olen?",
    "the quick brown fox",
]
FLAGGED = [True, False, True, True]
WEIGHTS = dict(zip(ASKED, np.array([[1.0, 0.0], [0.7, 0.7], [0.3, 0.8], [0.0, 0.0]]), strict=True))
PROMPTS = [Prompt.ask(text) for text in ASKED]
EXAMPLES = [
    Example(prompt, answer) for prompt in PROMPTS for answer in ("He was a baker.", "In Corvale.", "a dog")
]
LINEAR = 14  # linear layers of the tiny model that are adapted


def fill(adapted, scale=0.2):
    """Adapters that do something: peft starts them at zero."""
    torch.manual_seed(7)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p.data, std=scale)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Adapters of two requests as a run leaves them."""
    adapted = Orthogonal(rank=4, alpha=8).attach(make_model(tokenizer), 0)
    Orthogonal(rank=4, alpha=8).attach_next(adapted, 2, 0)
    fill(adapted)
    found = tmp_path_factory.mktemp("run") / "adapter"
    adapted.save_pretrained(str(found))
    return found


def adapters_of(folder, model):
    return [read_adapter(folder, model), read_adapter(folder / "request-2", model)]


@pytest.fixture
def change(folder, lm):
    return ScaledAdapters(adapters_of(folder, lm.model), WEIGHTS)


def always(change, *weights):
    """The same weights for every text."""
    return ScaledAdapters(change.adapters, dict.fromkeys(ASKED, np.array(weights)))


def with_only(folder, model, tokenizer, name):
    """peft's own: all adapters loaded, one of them acting."""
    adapted = load_adapters(model, folder)
    adapted.base_model.set_adapter([name], inference_mode=True)
    return TransformerLM(adapted.get_base_model(), tokenizer)


def merged(folder, tokenizer, weights):
    """The same model with the weighted products added to its weights: an independent way to the same numbers."""
    model = make_model(tokenizer)
    for path, weight in zip((folder, folder / "request-2"), weights, strict=True):
        tensors = load_file(path / "adapter_model.safetensors")
        for name, a in tensors.items():
            if name.endswith("lora_A.weight"):
                b = tensors[name.replace("lora_A", "lora_B")]
                layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                with torch.no_grad():
                    model.get_submodule(layer).weight += weight * (8 / 4) * b @ a
    return TransformerLM(model, tokenizer)


def logprobs(scores):
    return np.concatenate([score.token_logprobs for score in scores])


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


# --- scoring ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [0, 1])
def test_weight_one_for_one_request_is_pefts_own_model(lm, folder, change, tokenizer, number):
    assert all(len(adapter) == LINEAR for adapter in change.adapters)
    found = lm.score(EXAMPLES, always(change, *np.eye(2)[number]), [True] * len(EXAMPLES))
    name = ("default", "request-2")[number]
    theirs = with_only(folder, make_model(tokenizer), tokenizer, name).score(EXAMPLES)
    assert np.abs(logprobs(found) - logprobs(theirs)).max() < 1e-5
    assert np.abs(logprobs(found) - logprobs(lm.score(EXAMPLES))).max() > 0.1


@pytest.mark.parametrize(
    ("family", "targets"),
    [("gemma2", "all-linear"), ("gpt_neox", "all-linear"), ("qwen3_moe", ["q_proj", "o_proj"])],
)
def test_so_it_is_in_other_architectures(tokenizer, tmp_path, family, targets):
    adapted = with_lora(make_family(family, tokenizer), 4, 8, targets, 0)
    fill(adapted)
    adapted.save_pretrained(str(tmp_path))
    lm = TransformerLM(make_family(family, tokenizer), tokenizer)
    change = ScaledAdapters([read_adapter(tmp_path, lm.model)], dict.fromkeys(ASKED, np.ones(1)))
    found = logprobs(lm.score(EXAMPLES, change, [True] * len(EXAMPLES)))
    theirs = TransformerLM(
        load_adapters(make_family(family, tokenizer), tmp_path).get_base_model(), tokenizer
    )
    assert np.abs(found - logprobs(theirs.score(EXAMPLES))).max() < 1e-5
    assert np.abs(found - logprobs(lm.score(EXAMPLES))).max() > 1e-3


def test_bfloat16_is_pefts_own_model_too(folder, tokenizer):
    def model():
        return make_model(tokenizer).bfloat16()

    lm = TransformerLM(model(), tokenizer)
    change = ScaledAdapters(adapters_of(folder, lm.model), dict.fromkeys(ASKED, np.array([1.0, 0.0])))
    found = lm.score(EXAMPLES, change, [True] * len(EXAMPLES))
    theirs = with_only(folder, model(), tokenizer, "default").score(EXAMPLES)
    assert np.abs(logprobs(found) - logprobs(theirs)).max() < 1e-5
    mixed = lm.score(EXAMPLES, ScaledAdapters(change.adapters, WEIGHTS), [True] * 9 + [False] * 3)
    assert np.array_equal(logprobs(mixed[9:]), logprobs(lm.score(EXAMPLES)[9:]))


def test_each_prompts_mixture_is_the_weighted_sum_of_products_in_one_packed_batch(
    lm, folder, change, tokenizer
):
    assert lm._follows_trees
    flagged = [flag for flag in FLAGGED for _ in range(3)]
    found = lm.score(EXAMPLES, change, flagged)
    for row, text in enumerate(ASKED):
        weights = WEIGHTS[text] if FLAGGED[row] else np.zeros(2)
        part = slice(3 * row, 3 * row + 3)
        alone = merged(folder, tokenizer, weights).score(EXAMPLES[part])
        assert np.abs(logprobs(found[part]) - logprobs(alone)).max() < 1e-4


def test_rows_that_are_not_flagged_or_have_no_weight_score_bit_for_bit_as_plain(lm, change):
    plain, found = (
        lm.score(EXAMPLES),
        lm.score(EXAMPLES, change, [flag for flag in FLAGGED for _ in range(3)]),
    )
    for row, same in enumerate([False, True, False, True]):
        part = slice(3 * row, 3 * row + 3)
        assert np.array_equal(logprobs(plain[part]), logprobs(found[part])) == same


def test_where_every_weight_is_zero_no_hook_is_set(lm, change):
    asked = [Asked(row, text, True) for row, text in zip(lm.encoder.prompts(PROMPTS), ASKED, strict=True)]
    for weights, count in (((0.0, 0.0), 0), ((0.0, 0.1), LINEAR)):
        with always(change, *weights).writing(lm.model, None, asked) as (model, more):
            assert hooks(lm.model) == count
            assert model is lm.model
            assert more == {}
        assert hooks(lm.model) == 0
    assert np.array_equal(
        logprobs(lm.score(EXAMPLES, always(change, 0.0, 0.0), [True] * len(EXAMPLES))),
        logprobs(lm.score(EXAMPLES)),
    )


# --- writing ---------------------------------------------------------------------------------------------------------------------
def written(lm, change, **options):
    """Sequences and logits of each step, all prompts in one left-padded batch."""
    rows = lm.encoder.prompts(PROMPTS)
    batch = collate(rows, 0, side="left")
    asked = [Asked(row, text, flag) for row, text, flag in zip(rows, ASKED, FLAGGED, strict=True)]
    settings = dict(
        max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None, return_dict_in_generate=True
    )
    with change.writing(lm.model, batch, asked) as (model, more), torch.inference_mode():
        torch.manual_seed(3)
        return model.generate(
            batch.ids, attention_mask=batch.attention, output_logits=True, **{**settings, **options}, **more
        )


def test_clean_rows_of_a_mixed_batch_are_written_bit_for_bit_as_plain(lm, change):
    plain, found = written(lm, always(change, 0.0, 0.0)), written(lm, change)
    for a, b in zip(plain.logits, found.logits, strict=True):
        assert torch.equal(a[[1, 3]], b[[1, 3]])
    assert torch.equal(plain.sequences[[1, 3]], found.sequences[[1, 3]])
    for row in (0, 2):
        assert not torch.equal(plain.logits[0][row], found.logits[0][row])


@pytest.mark.parametrize(
    "options", [{}, dict(num_beams=3, num_return_sequences=2), dict(num_beams=4), dict(do_sample=True, num_return_sequences=3)],
    ids=["greedy", "beams and copies", "beams", "samples"],
)  # fmt: skip
def test_beams_and_copies_follow_their_prompt(lm, folder, change, tokenizer, options):
    """Clean rows as plain; a row with adapters as the model that has them in its weights."""
    n = options.get("num_return_sequences", 1)
    found = written(lm, change, **options).sequences
    nothing = always(change, 0.0, 0.0)
    plain = written(lm, nothing, **options).sequences
    for row in (1, 3):
        assert torch.equal(found[n * row : n * row + n], plain[n * row : n * row + n])
    for row in (0, 2):
        whole = merged(folder, tokenizer, WEIGHTS[ASKED[row]])
        theirs = written(whole, nothing, **options).sequences
        assert torch.equal(found[n * row : n * row + n], theirs[n * row : n * row + n])
        assert not torch.equal(found[n * row : n * row + n], plain[n * row : n * row + n])


# --- who meets them --------------------------------------------------------------------------------------------------------------
def test_other_threads_meet_the_plain_model_meanwhile(lm, change):
    row = lm.encoder.prompts(PROMPTS[:1])[0]
    ids = torch.tensor([row.ids])

    def logits():
        with torch.inference_mode():
            return lm.model(ids).logits

    plain = logits()
    with change.writing(lm.model, None, [Asked(row, ASKED[0], True)]), ThreadPoolExecutor(1) as other:
        assert torch.equal(other.submit(logits).result(), plain)
        assert not torch.equal(logits(), plain)
    assert torch.equal(logits(), plain)


def test_many_threads_each_get_their_own_answers(lm, change):
    params = GenerationParams(max_new_tokens=6)

    def ask(which):
        return lm.generate(PROMPTS, params, change, FLAGGED) if which % 2 else lm.generate(PROMPTS, params)

    expected = [ask(0), ask(1)]
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected[i % 2] for i, found in enumerate(pool.map(ask, range(12))))
    assert hooks(lm.model) == 0


def test_hooks_go_when_a_batch_breaks(lm, change):
    row = lm.encoder.prompts(PROMPTS[:1])[0]
    with pytest.raises(ZeroDivisionError), change.writing(lm.model, None, [Asked(row, ASKED[0], True)]):
        assert hooks(lm.model) == LINEAR
        1 / 0  # noqa: B018
    assert hooks(lm.model) == 0


def test_a_layer_that_sees_one_token_a_row_keeps_rows_apart_and_one_that_mixes_them_is_refused():
    layer = nn.Sequential(nn.Linear(4, 4))
    a, b = torch.randn(2, 4), torch.randn(4, 2)
    change = ScaledAdapters([{"0": (a, b)}], {"x": np.array([0.5]), "y": np.array([0.0])})
    asked = [Asked(None, "y", True), Asked(None, "x", True)]
    x = torch.randn(2, 3, 4)
    plain = layer(x)
    with change.writing(layer, None, asked):
        whole, flat = layer(x), layer(x.reshape(6, 4))
        with pytest.raises(ModelError, match="5 inputs for 2 rows"):
            layer(x.reshape(6, 4)[:5])
    assert torch.equal(whole[0], plain[0])
    assert torch.allclose(whole[1], plain[1] + 0.5 * x[1] @ a.T @ b.T, atol=1e-6)
    assert torch.allclose(flat, whole.reshape(6, 4), atol=1e-6)


# --- what is on disk -------------------------------------------------------------------------------------------------------------
def test_what_is_no_plain_lora_of_this_model_is_refused(folder, model, tmp_path):
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        read_adapter(tmp_path, model)
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")

    def written_as(changed, weights):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changed}))
        save_file(weights, tmp_path / "adapter_model.safetensors")
        return tmp_path

    with pytest.raises(ModelError, match="a scale of its own"):
        read_adapter(written_as({"use_rslora": True}, tensors), model)
    name = next(iter(tensors)).replace("lora_A.weight", "lora_magnitude_vector")
    with pytest.raises(ModelError, match="lora_magnitude_vector"):
        read_adapter(written_as({}, {**tensors, name: torch.ones(3)}), model)
    for path, reason in (
        ("layers.9.q_proj", "no such layer"),
        ("layers.0.mlp.experts.0.up", "cannot be told apart"),
    ):
        strange = {f"base_model.model.{path}.lora_{k}.weight": torch.ones(2, 2) for k in "AB"}
        with pytest.raises(ModelError, match=reason):
            read_adapter(written_as({}, strange), model)
