"""The input side of a model without the model: tokenizer, configuration and the one tensor that turns tokens into embeddings.

    e_t = E(id_t),   E: the model's own embedding module, with whatever scale stands in it

Enough for a gateway to corrupt a prompt that another process answers. Engines take embeddings by the contract of transformers:
`model.get_input_embeddings()(ids)` is what enters, and what a model multiplies after that it multiplies itself. So the module is
the architecture's own, made without weights, and its one tensor is read from the file.
"""

from __future__ import annotations

import base64
import io
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import CapabilityError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from expunge.types import Example, Generation, GenerationParams, Prompt, Score

SCALED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "granite", "granitemoe"})
"""Model types that multiply embeddings and of which is known that transformers and vLLM do it on the same side of the module."""
SCALES = (
    "embedding_multiplier",
    "scale_emb",
    "embedding_scale",
    "scale_embedding",
    "scale_embeddings",
    "mup_embedding_multiplier",
)
"""Names under which configurations keep such a factor."""


class InputSide:
    """Stands where the model is asked for its embeddings, its configuration or the device of a layer."""

    def __init__(self, skeleton: Any, embedding: nn.Module):
        self.config, self._skeleton, self._embedding = skeleton.config, skeleton, embedding

    @property
    def device(self) -> Any:
        return next(self._embedding.parameters()).device

    def get_input_embeddings(self) -> nn.Module:
        return self._embedding

    def get_submodule(self, path: str) -> nn.Module:
        """Says where a layer of the model would lie: on the device of the table. Raises AttributeError where there is no such layer."""
        self._skeleton.get_submodule(path)
        return self._embedding


class EmbeddingTable:
    """A LanguageModel that neither scores nor writes: guards load before it, and their corruptions are worked out on it."""

    capabilities: frozenset[str] = frozenset()

    def __init__(self, name: str | Path, template: str = "auto"):
        """Open a model folder or hub id. Raises ModelError for one whose embeddings may enter in another form than they would here."""
        from expunge.data.tokenize import Encoder
        from expunge.models.load import check_tokenizer, context_length, load_config, load_tokenizer

        config = load_config(name)
        self.source = str(name)
        self.tokenizer = load_tokenizer(name)
        check_tokenizer(self.tokenizer, str(name))
        self.encoder = Encoder(self.tokenizer, context_length(config, self.tokenizer), template)
        self.model = _input_side(name, config)

    @property
    def hidden(self) -> int:
        """Numbers in an embedding."""
        return self.model.config.get_text_config().hidden_size

    @cached_property
    def end_ids(self) -> list[int]:
        """The tokens that end an answer, as the model itself would end it."""
        from transformers import GenerationConfig

        try:
            own = GenerationConfig.from_pretrained(self.source).eos_token_id
        except OSError:
            own = self.model.config.get_text_config().eos_token_id
        ends = {*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id, self.encoder.end_id}
        return sorted(i for i in ends if i is not None)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        """Always raises CapabilityError."""
        raise CapabilityError(f"{self.source}: only its embeddings are open here; it scores nothing.")

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        """Always raises CapabilityError."""
        raise CapabilityError(f"{self.source}: only its embeddings are open here; it writes nothing.")


def _input_side(name: str | Path, config: Any) -> InputSide:
    import torch
    from accelerate import init_empty_weights

    from expunge.models.load import model_class

    with init_empty_weights(include_buffers=False):  # scales are buffers
        skeleton: Any = model_class(config).from_config(config)
    embedding = skeleton.get_input_embeddings()
    _refuse_unknown_scale(name, config, embedding)
    own = next(key for key, value in skeleton.named_parameters() if value is embedding.weight)
    weight = _read_tensor(name, own)
    if weight.shape != embedding.weight.shape:
        raise ModelError(
            f"{name}: its embedding tensor is {tuple(weight.shape)} and its configuration says {tuple(embedding.weight.shape)}.\n"
            "Check that config.json belongs to these weights."
        )
    embedding.weight = torch.nn.Parameter(weight, requires_grad=False)
    return InputSide(skeleton, embedding.eval())


def _refuse_unknown_scale(name: str | Path, config: Any, embedding: Any) -> None:
    from torch import nn

    text = config.get_text_config()
    scaled = type(embedding) is not nn.Embedding or any(
        getattr(text, key, None) not in (None, 1, 1.0, False) for key in SCALES
    )
    projected = getattr(text, "word_embed_proj_dim", text.hidden_size) != text.hidden_size
    if projected or (scaled and not {config.model_type, text.model_type} <= SCALED):
        raise ModelError(
            f"{name}: models of type '{text.model_type}' scale or project their embeddings, and where vLLM does so is not known here.\n"
            "Corrupted prompts would enter in another form. Serve it in this process, or take a guard that works on text."
        )


def _read_tensor(name: str | Path, key: str) -> Tensor:
    """One tensor of a model's safetensors files, in the form in which it was saved."""
    from safetensors import SafetensorError, safe_open

    index = _file(name, "model.safetensors.index.json")
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index else {}
    names = [
        key,
        key.removeprefix("model."),
        key.split(".", 1)[-1],
    ]  # saved with or without the head around it
    found = next((n for n in names if n in places), None)
    file = _file(name, places[found] if found else "model.safetensors")
    if file is None:
        raise ModelError(f"{name}: no file (*.safetensors) with its embeddings, '{key}'.")
    try:
        with safe_open(file, "pt") as tensors:
            held = set(tensors.keys())
            stored = next((n for n in names if n in held), None)
            if stored is None:
                raise ModelError(
                    f"{file}: no tensor '{key}' in it, which holds the embeddings. Was it saved by another program?"
                )
            return tensors.get_tensor(stored)
    except SafetensorError as error:
        raise ModelError(f"{file}: not a safetensors file: {error}") from None


def _file(name: str | Path, file: str) -> Path | None:
    from transformers.utils.hub import cached_file

    found = cached_file(
        str(name),
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


# --- on the way out --------------------------------------------------------------------------------------------------------
def checked(embeddings: Tensor, hidden: int, longest: int) -> Tensor:
    """`embeddings` [tokens, hidden] as they are, where an engine can take them: it looks at none of this itself, and answers nonsense
    or falls over. Raises ModelError.
    """
    import torch

    if embeddings.ndim != 2 or embeddings.shape[1] != hidden:
        raise ModelError(
            f"embeddings of shape {tuple(embeddings.shape)}: the model takes [tokens, {hidden}]."
        )
    if embeddings.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ModelError(f"embeddings of type {embeddings.dtype}: the model takes floating point numbers.")
    if not 0 < len(embeddings) <= longest:
        raise ModelError(f"embeddings of {len(embeddings)} tokens: the model takes 1 to {longest}.")
    if not torch.isfinite(embeddings).all():
        raise ModelError("embeddings that are not finite.")
    return embeddings


def to_text(embeddings: Tensor, hidden: int, longest: int) -> str:
    """Base64 of the saved tensor, as vLLM's `prompt_embeds` takes it. Raises ModelError for what it should not be given."""
    import torch

    file = io.BytesIO()
    torch.save(checked(embeddings, hidden, longest).contiguous().clone().cpu(), file)
    return base64.b64encode(file.getvalue()).decode()
