"""Sentence encoders: any folder or hub id of sentence-transformers, or a plain encoder, read with transformers alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expunge.errors import ModelError
from expunge.models.load import is_folder_name
from expunge.models.reader import open_reader, unreachable

POOLINGS = ("mean", "cls")


class SentenceEncoder:
    """One unit vector a text: the mean of its tokens' last hidden states, or that of the first token, as the model says.

    A model's layers after the pooling are refused except for the normalisation. The prompts that some models' settings put in
    front of a text are left out on both sides.
    """

    def __init__(self, name: str, device: Any = "cpu"):
        from transformers import AutoModel

        self.name = str(Path(name).resolve()) if is_folder_name(name) else name
        modules = {
            part["type"].rpartition(".")[2]: part["path"] for part in _read(self.name, "modules.json") or []
        }
        if strange := modules.keys() - {"Transformer", "Pooling", "Normalize"}:
            raise ModelError(
                f"{name}: a sentence encoder with a layer of its own ({', '.join(sorted(strange))}), which is not built in here.\n"
                "Take one that pools and normalises only, such as sentence-transformers/all-MiniLM-L6-v2."
            )
        inner = modules.get("Transformer", "")
        self.pooling = _pooling(self.name, modules.get("Pooling", "1_Pooling"))
        most = (_read(self.name, f"{inner}/sentence_bert_config.json".lstrip("/")) or {}).get(
            "max_seq_length"
        )
        self.reader = open_reader(AutoModel, self.name, device=device, subfolder=inner, most=most)

    def pieces(self, text: str) -> list[str]:
        return self.reader.pieces(text)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[n, hidden] float32. How a text is padded does not matter."""
        import torch

        found = []
        for ids, mask in self.reader.batches(texts):
            with torch.inference_mode():
                hidden = self.reader.model(input_ids=ids, attention_mask=mask).last_hidden_state
            if self.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                weights = mask[:, :, None].to(hidden)
                pooled = (hidden * weights).sum(1) / weights.sum(1)
            found.append(torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, 1), dtype=np.float32)

    def state(self) -> dict[str, Any]:
        return {"name": self.name}


def _pooling(name: str, folder: str) -> str:
    settings = _read(name, f"{folder}/config.json") or {"pooling_mode": "mean"}
    chosen = [settings["pooling_mode"]] if "pooling_mode" in settings else _flags(settings)
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ModelError(
            f"{name}: pools by {' and '.join(chosen) or 'nothing'}, and built in are {' and '.join(POOLINGS)}. Take another sentence encoder."
        )
    return chosen[0]


def _flags(settings: dict[str, Any]) -> list[str]:
    """The older form: one switch for each way of pooling."""
    names = {"cls_token": "cls", "mean_tokens": "mean"}
    switched = [
        key.removeprefix("pooling_mode_")
        for key, on in settings.items()
        if on is True and key.startswith("pooling_mode_")
    ]
    return [names.get(key, key) for key in switched]


def _read(name: str, path: str) -> Any:
    """A JSON file of the model, or None where it has no such file. Raises ModelError where that cannot be known."""
    from transformers.utils.hub import cached_file

    if is_folder_name(name):
        found = Path(name) / path
        return json.loads(found.read_text(encoding="utf-8")) if found.is_file() else None
    try:
        cached = cached_file(name, path, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise ModelError(unreachable(name, error)) from error
    return json.loads(Path(cached).read_text(encoding="utf-8")) if cached else None
