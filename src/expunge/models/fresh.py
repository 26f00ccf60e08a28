"""Small models from scratch, for the benchmarks that bring their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from expunge.config import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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

        shape = {
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
            experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": self.feed_forward // 2, "norm_topk_prob": True}
            return Qwen3MoeForCausalLM(Qwen3MoeConfig(intermediate_size=self.feed_forward, head_dim=self.hidden // self.heads, **experts, **shape))
