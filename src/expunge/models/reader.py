"""Small models that read a text whole: a sentence encoder or a classifier, by folder or hub id. Nothing is ever cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ModelError
from expunge.models.load import check_folder, context_length, is_folder_name

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 32  # texts a forward pass


class Reader:
    """A model with its tokenizer, in evaluation mode."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: int | None = None):
        self.model, self.tokenizer = model.eval(), tokenizer
        tokenizer.padding_side = "right"
        self.most = min(most_tokens(model, tokenizer), most or 10**9)
        """Tokens of the longest text that is read in one piece."""

    def pieces(self, text: str) -> list[str]:
        """The text where the model can take it in one, else overlapping pieces that cover it."""
        if len(text) < 2 or len(self._ids([text])[0]) <= self.most:
            return [text]
        half, overlap = len(text) // 2, len(text) // 8
        return self.pieces(text[: half + overlap]) + self.pieces(text[half - overlap :])

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids [batch, tokens] and attention mask of so many texts at a time, in order. None of them may be too long."""
        for i in range(0, len(texts), BATCH):
            yield self.padded(texts[i : i + BATCH])

    def padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = self.tokenizer.pad({"input_ids": self._ids(texts)}, return_tensors="pt")
        device = self.model.device
        return found["input_ids"].to(device), found["attention_mask"].to(device)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]


def open_reader(
    kind: Any,
    name: str | Path,
    *,
    device: Any = "cpu",
    subfolder: str = "",
    most: int | None = None,
    complete: bool = True,
    **options: Any,
) -> Reader:
    """Open a model as `kind`, an auto class of transformers, in float32. Without `complete` its head may start from random weights.

    Raises ModelError where there is no such model, or where its files lack weights that it would work with.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    if is_folder_name(name):
        check_folder(Path(name) / subfolder)
    where = {"subfolder": subfolder} if subfolder else {}
    logging.disable_progress_bar()
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # weights that are missing are told of below
    try:
        model, found = kind.from_pretrained(
            str(name),
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **where,
            **options,
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(str(name), **where)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(unreachable(name, error)) from error
    finally:
        logging.set_verbosity(said)
    body = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    if missing := [
        key
        for key in sorted(found["missing_keys"])
        if (complete and body) or (key.startswith(body) and "pooler" not in key)
    ]:
        raise ModelError(
            f"{name}: its files hold no {missing[0]}, so as a {type(model).__name__} it would answer at random.\n"
            "Give a model that was trained for this."
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{name}: the tokenizer has no pad token, so texts cannot be read together. Set one and save it again: tokenizer.pad_token = ..."
        )
    return Reader(model.to(device), tokenizer, most)


def unreachable(name: str | Path, error: Exception) -> str:
    """What a person is told when a model cannot be had."""
    return (
        f"{name}: cannot be opened: {str(error).strip().splitlines()[0]}\n"
        "Give a folder with config.json, *.safetensors and a tokenizer, or a hub id such as owner/name."
    )


def most_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest text. RoBERTa and its kin count positions from behind the pad id, and so have fewer than they say."""
    limit = context_length(model.config, tokenizer)
    for name, module in model.named_modules():
        pad = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and pad is not None:
            limit = min(limit, module.num_embeddings - pad - 1)
    return limit


def device_of(model: Any) -> Any:
    """Where the guarded model computes; an endpoint's detectors run on the CPU."""
    return getattr(getattr(model, "model", None), "device", "cpu")
