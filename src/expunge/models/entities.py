"""Character spans of named entities in a text, by any Hugging Face token classifier: ECO's choice of tokens where no names are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from expunge.errors import ModelError
from expunge.models.load import check_folder, is_folder_name


class EntityFinder:
    """Long texts are read in overlapping pieces, so that nothing is cut off."""

    def __init__(self, name: str, outside: int = 0, device: str | torch.device = "cpu"):
        """`name`: folder or hub id. `outside`: the index of the label for tokens of no entity. Raises ModelError."""
        from transformers import AutoModelForTokenClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        if is_folder_name(name):
            check_folder(Path(name))
        try:
            model: Any = AutoModelForTokenClassification.from_pretrained(name, use_safetensors=True)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ModelError(f"{name}: cannot be loaded as a token classifier: {error}") from error
        if not 0 <= outside < model.config.num_labels:
            raise ModelError(
                f"{name}: has {model.config.num_labels} labels, so none with the index {outside}. Set action.outside to the one for 'no entity'."
            )
        self.model = model.to(device).eval()
        self.outside = outside
        limits = (self.tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512) - 2)
        self.max_tokens = int(min(*limits, 512))

    @torch.inference_mode()
    def spans(self, text: str) -> list[tuple[int, int]]:
        """Of every token that belongs to an entity, in one piece of the text or another."""
        if not text:
            return []
        pieces = self.tokenizer(
            text, truncation=True, max_length=self.max_tokens, stride=self.max_tokens // 4,
            return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt",
        )  # fmt: skip
        device = self.model.device
        logits = self.model(
            input_ids=pieces["input_ids"].to(device), attention_mask=pieces["attention_mask"].to(device)
        ).logits
        labels = logits.argmax(-1).cpu()
        entity = (labels != self.outside) | logits.isnan().any(-1).cpu()  # what cannot be told is corrupted
        offsets = pieces["offset_mapping"]
        real = pieces["attention_mask"].bool() & (offsets[..., 1] > offsets[..., 0])
        return sorted({(int(a), int(b)) for a, b in offsets[entity & real].tolist()})
