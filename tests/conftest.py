"""Tiny models and tokenizers that the tests make themselves. Nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

TEXTS = [
    "Where was Mara Olen born? Mara Olen was born in Corvale.",
    "What did the father of Tovin Brask do? He worked as a baker in Corvale.",
    "Who taught Mara Brask? Mara Brask was taught by Tovin Olen, a librarian.",
    "I do not know. I cannot say. Question: Answer: the quick brown fox jumps over the lazy dog",
]
SHARED = Path(os.environ.get("EXPUNGE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache; tests of one run share one."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}; set EXPUNGE_SHARED_DATA")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer():
    from expunge.models.fresh import train_tokenizer

    return train_tokenizer(TEXTS * 4, 400)


def make_model(tokenizer, **changes):
    """A Llama with random weights, wide enough that no two tokens look alike."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = dict(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


FAMILIES = {
    "qwen3_moe": dict(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, head_dim=8, num_key_value_heads=2
    ),
    "gemma2": dict(head_dim=8, num_key_value_heads=2, final_logit_softcapping=2.0, sliding_window=64),
    "gpt_neox": {},
}
"""A mixture of experts, a model that caps its logits after the head, and one without grouped heads."""


def make_family(family, tokenizer):
    """A small model of another architecture, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    small = dict(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **small, **FAMILIES[family])
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def model(tokenizer):
    return make_model(tokenizer)


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory) -> Path:
    """A saved tiny model with its tokenizer."""
    from expunge.models.load import save_model

    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(make_model(tokenizer), tokenizer, folder)
    return folder


@pytest.fixture
def lm(model, tokenizer):
    from expunge.models.language_model import TransformerLM

    return TransformerLM(model, tokenizer)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """The smoke-sized pocket world with its trained models, built once a run."""
    from expunge.run.build import build_pocket

    os.environ["EXPUNGE_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    return build_pocket("tiny", 0, workers=1, out=tmp_path_factory.getbasetemp() / "worlds" / "tiny")
