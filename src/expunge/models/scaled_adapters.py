"""LoRA adapters beside a plain model, each row of a batch under its own mixture of them; rows without any are untouched.

    h = W x + Σ_t w_t(row) · s · B_t A_t x

Hooks stand on the adapted layers only while a batch runs, and act only in the thread that set them: other threads meet the plain
model meanwhile. No weight is merged or copied, and the products have the adapters' rank.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from expunge.data.batching import Batch
from expunge.errors import ModelError
from expunge.models.intervention import Asked, Forward, PlainTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Adapter = Mapping[str, tuple[Tensor, Tensor]]
"""By layer: A [rank, inputs], and B [outputs, rank] with the adapter's scale in it."""


def read_adapter(folder: Path, model: PreTrainedModel) -> Adapter:
    """What peft saved for `model`, on its devices. Raises ModelError where it is more than plain LoRA on layers of this model."""
    from safetensors.torch import load_file

    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder}: no adapter_model.safetensors, so there is no LoRA adapter in it.")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(weights)
    a_end, b_end = ".lora_A.weight", ".lora_B.weight"
    strange = [name for name in tensors if not name.endswith((a_end, b_end))]
    if strange or config.get("use_rslora") or config.get("alpha_pattern"):
        what = strange[0] if strange else "a scale of its own in each layer"
        raise ModelError(f"{folder}: more than plain LoRA ({what}), which cannot be weighed row by row.")
    found = {}
    for name in (name.removesuffix(a_end) for name in tensors if name.endswith(a_end)):
        path = name.removeprefix("base_model.model.")
        if ".experts." in path:
            raise ModelError(
                f"{folder}: an adapter on {path}, which sees tokens of many rows at once: rows cannot be told apart there."
            )
        try:
            device = next(model.get_submodule(path).parameters()).device
        except AttributeError:
            raise ModelError(
                f"{folder}: an adapter on {path}, and this model has no such layer. Was it made for another model?"
            ) from None
        a, b = tensors[name + a_end].to(device), tensors[name + b_end].to(device)
        found[path] = (a, b * (config["lora_alpha"] / len(a)))
    return found


@dataclass(frozen=True)
class ScaledAdapters(PlainTokens):
    """Adapters as an intervention: flagged rows meet them by the weights of their text, the same while scoring and writing."""

    adapters: Sequence[Adapter]
    weights: Mapping[str, np.ndarray]
    """By text, [adapters]. A weight of 0 leaves an adapter out altogether."""

    def logits(self, forward: Forward) -> Tensor:
        with self._acting(forward.model, forward.asked):
            return forward.run()

    @contextmanager
    def writing(
        self, model: PreTrainedModel, batch: Batch, asked: Sequence[Asked]
    ) -> Generator[tuple[PreTrainedModel, dict[str, Any]]]:
        with self._acting(model, asked):
            yield model, {}

    @contextmanager
    def _acting(self, model: PreTrainedModel, asked: Sequence[Asked]) -> Generator[None]:
        weights = np.array(
            [self.weights[row.text] if row.flagged else np.zeros(len(self.adapters)) for row in asked]
        )
        layers: dict[str, list[tuple[Tensor, Tensor, np.ndarray]]] = {}
        for adapter, weight in zip(self.adapters, weights.T, strict=True):
            if weight.any():
                for name, (a, b) in adapter.items():
                    layers.setdefault(name, []).append((a, b, weight))
        handles = []
        try:
            for name, parts in layers.items():
                handles.append(
                    model.get_submodule(name).register_forward_hook(_hook(name, parts, len(asked)))
                )
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hook(name: str, parts: Sequence[tuple[Tensor, Tensor, np.ndarray]], rows: int) -> Any:
    """Adds to a layer's output what the adapters `parts` (A, B, weight of each row) make of its input."""
    owner = threading.get_ident()

    @functools.cache
    def which(part: int, copies: int) -> tuple[Tensor, Tensor]:
        """Rows of the layer's input that an adapter acts on, and their weights."""
        a, _, weight = parts[part]
        each = np.repeat(weight, copies)
        return torch.from_numpy(each.nonzero()[0]).to(a.device), torch.from_numpy(each[each != 0]).to(a)

    def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if threading.get_ident() != owner:
            return None
        (entering,) = args
        # beams and copies of a row lie side by side, and so do its tokens where a layer is given one token a row
        copies, odd = divmod(len(entering), rows)
        if odd:
            raise ModelError(
                f"{name} is given {len(entering)} inputs for {rows} rows: they cannot be told apart."
            )
        for part, (a, b, _) in enumerate(parts):
            at, weight = which(part, copies)
            added = entering[at].to(a.dtype) @ a.T @ b.T
            changed = output[at] + added * weight.view(-1, *[1] * (added.ndim - 1))
            output = output.index_copy(0, at, changed.to(output.dtype))
        return output

    return hook
