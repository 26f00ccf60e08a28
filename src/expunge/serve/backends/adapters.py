"""Mixtures of a fitted O3's adapters as LoRA folders for an engine that takes one adapter a request, at full weight.

    A = [A_1; A_2; ...],   B = [w_1 B_1, w_2 B_2, ...]        so that B A h = Σ_t w_t B_t A_t h

Weights are rounded to quarters, so that few mixtures are ever asked for; each is written once, in a folder of its own.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.serve.backend import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from expunge.models.scaled_adapters import Adapter

STEP = 0.25
KEPT = 32
"""Mixtures that stay loaded when nobody uses them."""
Call = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Posts a body to a path of the engine."""


@dataclass
class _Loaded:
    name: str
    ready: asyncio.Task[None]
    users: int = 0


class Mixtures:
    """Loaded mixtures by action and weights, the least recently used first."""

    def __init__(self, call: Call, folder: str = ""):
        """`folder`: where mixtures are written; the engine reads them there. A temporary folder by default."""
        self._call = call
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="expunge-adapters-")
        self.folder = Path(self._own.name if self._own else folder)
        self._loaded: OrderedDict[tuple[Any, tuple[float, ...]], _Loaded] = OrderedDict()

    @asynccontextmanager
    async def using(self, action: Any, weights: np.ndarray) -> AsyncGenerator[str]:
        """The name under which the engine knows the mixture, loaded while the context lasts."""
        key = (action, tuple(float(w) for w in np.round(weights / STEP) * STEP))
        held = self._loaded.get(key)
        if held is None:
            name = f"expunge-{secrets.token_hex(8)}"  # never a name or folder again: caches go by them
            load = asyncio.ensure_future(self._load(name, action.adapters, key[1]))
            held = self._loaded[key] = _Loaded(name, load)
        self._loaded.move_to_end(key)
        held.users += 1
        try:
            await asyncio.shield(held.ready)
            yield held.name
        except (
            BackendError
        ):  # an engine that was started again knows no mixture any more: the next one to ask loads it anew
            if self._loaded.get(key) is held:
                del self._loaded[key]
            raise
        finally:
            held.users -= 1
        await self._make_room()

    async def _load(self, name: str, adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
        path = self.folder / name
        try:
            await asyncio.to_thread(write_mixture, path, adapters, weights)
        except (OSError, ValueError) as error:
            raise BackendError(f"{path}: the adapters could not be written: {type(error).__name__}") from None
        await self._call("load_lora_adapter", {"lora_name": name, "lora_path": str(path)})

    async def _make_room(self) -> None:
        idle = [key for key, held in self._loaded.items() if not held.users]
        for key in idle[: max(len(self._loaded) - KEPT, 0)]:
            gone = self._loaded.pop(key)
            await self._call("unload_lora_adapter", {"lora_name": gone.name})
            await asyncio.to_thread(shutil.rmtree, self.folder / gone.name, ignore_errors=True)

    def close(self) -> None:
        for held in self._loaded.values():
            held.ready.cancel()
        if self._own:
            self._own.cleanup()


def rank(adapters: Sequence[Adapter]) -> int:
    """Of all adapters together, where they meet in one layer."""
    layers = {layer for adapter in adapters for layer in adapter}
    return max(sum(len(adapter[layer][0]) for adapter in adapters if layer in adapter) for layer in layers)


def write_mixture(folder: Path, adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
    """A LoRA folder in peft's layout that adds what the adapters add by their weights."""
    import torch
    from safetensors.torch import save_file

    acting = [(adapter, w) for adapter, w in zip(adapters, weights, strict=True) if w]
    most = rank([adapter for adapter, _ in acting])
    tensors = {}
    for layer in sorted({layer for adapter, _ in acting for layer in adapter}):
        parts = [(*adapter[layer], w) for adapter, w in acting if layer in adapter]
        a = torch.cat([a for a, _, _ in parts])
        b = torch.cat([b * w for _, b, w in parts], 1)
        missing = most - len(a)
        tensors[f"base_model.model.{layer}.lora_A.weight"] = torch.cat([a, a.new_zeros(missing, a.shape[1])])
        tensors[f"base_model.model.{layer}.lora_B.weight"] = torch.cat([b, b.new_zeros(len(b), missing)], 1)
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    layers = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "bias": "none", "inference_mode": True,
        "r": most, "lora_alpha": most, "lora_dropout": 0.0, "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
