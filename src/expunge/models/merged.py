"""Adapters written into the weights that they stand beside, or taken off them."""

from __future__ import annotations

from typing import Any


def merge_adapters(model: Any) -> None:
    """Write adapters into their weights, in place, and take them away."""
    for name, layer in _adapted(model):
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())


def strip_adapters(model: Any) -> int:
    """Take adapters away, in place, as if they had never been there. Returns how many there were."""
    found = _adapted(model)
    for name, layer in found:
        model.set_submodule(name, layer.get_base_layer())
    return len(found)


def scale_adapters(model: Any, factor: float) -> int:
    """Let adapters add `factor` times what they added, in place. Returns how many there were."""
    found = _adapted(model)
    for _, layer in found:
        layer.scaling = {name: factor * scale for name, scale in layer.scaling.items()}
    return len(found)


def _adapted(model: Any) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
