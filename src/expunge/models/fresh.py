"""Small models from scratch, for the benchmarks that bring their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from expunge.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

Arch = Literal["llama", "moe"]


class FreshModel(Settings):
    """Shape of a model that starts from random weights."""

    arch: Arch = "llama"
    """llama: dense; moe: Qwen3-MoE, eight experts of which each token uses two."""
    hidden: int = Field(64, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(192, ge=8)
    context: int = Field(256, ge=16)
    """Most tokens of a row."""
    spread: float = 0.06
    """Standard deviation of the initial weights; 0.02 learns facts far more slowly at this size."""

    def build(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
        """A model with random weights in float32. The same seed gives the same weights."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

        shape: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": self.context,
            "initializer_range": self.spread,
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.arch == "llama":
                return LlamaForCausalLM(LlamaConfig(intermediate_size=self.feed_forward, **shape))
            experts: dict[str, Any] = {
                "head_dim": self.hidden // self.heads,
                "num_experts": 8,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": self.feed_forward // 2,
                "norm_topk_prob": True,
            }
            return Qwen3MoeForCausalLM(
                Qwen3MoeConfig(intermediate_size=self.feed_forward, **experts, **shape)
            )


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `size` tokens, trained on `texts`; a start token is put in front of every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
