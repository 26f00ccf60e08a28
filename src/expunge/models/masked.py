"""A masked language model: which words could stand at one hidden place of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.errors import DataError, ModelError
from expunge.models.load import check_folder, is_folder_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class MaskedLM:
    """Any masked language model of the hub's classes, such as RoBERTa or BERT."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 32):
        """`batch_size`: places in one forward, each with the logits of the whole vocabulary."""
        if tokenizer.mask_token_id is None:
            raise ModelError("the tokenizer has no mask token, so this is no masked language model.")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @classmethod
    def open(cls, name: str | Path) -> MaskedLM:
        """From a folder or hub id, safetensors only. Raises ModelError."""
        from transformers import AutoModelForMaskedLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        if is_folder_name(name):
            check_folder(Path(name))
        try:
            model: Any = AutoModelForMaskedLM.from_pretrained(
                str(name), use_safetensors=True, dtype=torch.float32
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(str(name))
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise ModelError(f"{name}: cannot be loaded as a masked language model: {reason}") from error
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What each entry of the vocabulary stands for; "" for special tokens and entries without a letter or digit."""
        special = set(self.tokenizer.all_special_ids)
        texts = self.tokenizer.batch_decode(
            [[i] for i in range(self.model.config.vocab_size)], clean_up_tokenization_spaces=False
        )
        found = (text.strip().removeprefix("##") for text in texts)  # wordpieces stand for themselves
        return tuple(text if i not in special and text.isalnum() else "" for i, text in enumerate(found))

    @torch.inference_mode()
    def logits(self, places: Sequence[tuple[str, int, int]]) -> Iterator[Tensor]:
        """[places, vocab] float32 on the CPU, batch by batch; a place is a text and the span of the word in it that is hidden.

        The model reads the text itself and then the one with the gap, as in DP-MLM. Raises DataError for a text that does not fit
        it twice.
        """
        tokenizer, mask = self.tokenizer, self.tokenizer.mask_token
        for first in range(0, len(places), self.batch_size):
            batch = places[first : first + self.batch_size]
            masked = [text[:start] + mask + text[end:] for text, start, end in batch]
            inputs = tokenizer([text for text, _, _ in batch], masked, padding=True, return_tensors="pt").to(
                self.model.device
            )
            if inputs["input_ids"].shape[1] > self._context:
                longest = max((text for text, _, _ in batch), key=len)
                raise DataError(
                    f"the text {longest[:60]!r}... has to fit the masked model twice: {inputs['input_ids'].shape[1]} tokens, it reads {self._context}.\n"
                    "Split the row into shorter ones."
                )
            hidden = inputs["input_ids"] == tokenizer.mask_token_id
            at = hidden.int().cumsum(1).argmax(1)  # the last one, should the text itself hold a mask token
            found = self.model(**inputs).logits  # [places, tokens, vocab]
            yield found[torch.arange(len(batch), device=found.device), at].float().cpu()

    @cached_property
    def _context(self) -> int:
        """Tokens that fit; RoBERTa's positions start behind its padding id."""
        config = self.model.config
        offset = (
            config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
        )
        return min(config.max_position_embeddings - offset, self.tokenizer.model_max_length)
