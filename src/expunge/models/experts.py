"""The routed experts of a mixture-of-experts model: where they are, how much rows use them, and the gates of a forward.

Every architecture that fuses its experts is read alike: a module `experts` holds tensors whose first axis counts them, and the
router beside it ('gate' or 'router') returns (logits, gates of the top k, which those are). Gates are what the block itself
multiplies by, so they add up to one where the model normalises them. Shared experts are no part of this: no router picks them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.data.batching import Batch, by_length, collate
from expunge.data.tokenize import Encoded
from expunge.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ExpertLayer(NamedTuple):
    """One layer of routed experts. Names are those of `model.named_modules()` and `model.named_parameters()`."""

    router: str
    """The router's module."""
    router_weights: dict[str, torch.Size]
    """Its tensors."""
    tensors: dict[str, torch.Size]
    """The experts' tensors; `tensor[i]` belongs to expert i."""
    count: int

    def masks(self, experts: Sequence[int]) -> dict[str, Tensor]:
        """Boolean masks, by tensor, of these experts and of the router that all of them share."""
        masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in self.tensors.items()}
        for mask in masks.values():
            mask[list(experts)] = True
        return masks | {
            name: torch.ones(shape, dtype=torch.bool) for name, shape in self.router_weights.items()
        }


class Affinity(NamedTuple):
    """How much rows use the experts of one layer."""

    layer: ExpertLayer
    shares: Tensor  # [experts] float64, mean over rows of the mean gate of a row's tokens


def expert_layers(model: PreTrainedModel) -> list[ExpertLayer]:
    """The layers with routed experts, from the first to the last. Raises ModelError for a model without any."""
    found = []
    for path, block in model.named_modules():
        experts = getattr(block, "experts", None)
        router = "gate" if hasattr(block, "gate") else "router"
        if not isinstance(experts, nn.Module) or not isinstance(getattr(block, router, None), nn.Module):
            continue
        tensors = {f"{path}.experts.{name}": p.shape for name, p in experts.named_parameters()}
        counts = {shape[0] for shape in tensors.values()}
        if len(counts) != 1 or not any(len(shape) == 3 for shape in tensors.values()):
            raise ModelError(
                f"{type(model).__name__}: the experts in {path} are not tensors whose first axis counts them, so none can be picked."
            )
        weights = {
            f"{path}.{router}.{name}": p.shape for name, p in getattr(block, router).named_parameters()
        }
        found.append(ExpertLayer(f"{path}.{router}", weights, tensors, counts.pop()))
    if not found:
        raise ModelError(
            f"expert selection needs a mixture of experts; this model ({type(model).__name__}) is dense.\n"
            "Take another selection (wagle, layers) or none, or start from a mixture, for example a pocket world made with --arch moe."
        )
    return found


@contextmanager
def recorded(model: PreTrainedModel, layers: Sequence[ExpertLayer]) -> Generator[dict[str, Tensor]]:
    """While open, each forward leaves its gates here: by router [batch * tokens, experts], zero beyond the top k."""
    seen: dict[str, Tensor] = {}

    def keep(layer: ExpertLayer) -> Any:
        return lambda module, inputs, output: seen.__setitem__(layer.router, gates_of(output, layer))

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(model.get_submodule(layer.router).register_forward_hook(keep(layer)))
        yield seen


def gates_of(output: Any, layer: ExpertLayer) -> Tensor:
    """[batch * tokens, experts] float32 from what a router returned. Raises ModelError for one of another kind."""
    if not isinstance(output, tuple) or len(output) != 3 or output[1].shape != output[2].shape:
        raise ModelError(
            f"the router {layer.router} does not return (logits, gates, which experts), so its gates cannot be read.\n"
            "Leave the expert selection out, or take the same model as transformers has it."
        )
    _, gates, which = output
    return gates.new_zeros(len(gates), layer.count, dtype=torch.float32).scatter(-1, which, gates.float())


def affinities(
    model: PreTrainedModel, rows: Sequence[Encoded], pad_id: int, batch_tokens: int = 4096
) -> list[Affinity]:
    """How much `rows` use each expert of each layer: forwards alone. Raises ModelError for a dense model."""
    layers = expert_layers(model)
    sums = [torch.zeros(layer.count, dtype=torch.float64) for layer in layers]
    model.eval()
    with torch.inference_mode(), recorded(model, layers) as seen:
        for near in by_length([len(row.ids) for row in rows], batch_tokens):
            batch = collate([rows[i] for i in near], pad_id, device=model.device)
            model.base_model(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)
            weight = (batch.attention / batch.attention.sum(1, keepdim=True)).reshape(-1, 1).double()
            for total, layer in zip(sums, layers, strict=True):
                total.add_((weight * seen[layer.router]).sum(0).cpu())
    return [Affinity(layer, total / len(rows)) for layer, total in zip(layers, sums, strict=True)]


class PickedGates:
    """The gates, at answer tokens, of the routers that a selection lets move."""

    def __init__(self, model: PreTrainedModel, picked: Mapping[str, Tensor]):
        self.model = model
        self.layers = [layer for layer in expert_layers(model) if set(layer.router_weights) & set(picked)]
        firsts = [picked[next(iter(layer.tensors))] for layer in self.layers]
        self.chosen = torch.stack([mask.flatten(1).any(1) for mask in firsts]).to(model.device)
        """[routers, experts] bool: the experts that move."""

    def recorded(self) -> Any:
        """While open, a forward leaves its gates in what this yields."""
        return recorded(self.model, self.layers)

    def at_answers(self, seen: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """[answer, routers, experts] of the forward of `batch`. Raises ConfigError when it stopped before a router."""
        missing = [layer.router for layer in self.layers if layer.router not in seen]
        if missing:
            raise ConfigError(
                f"{missing[0]} was picked, and the forward of this objective stops before it.\nSet objective.layer to its block or a later one."
            )
        gates = torch.stack([seen[layer.router] for layer in self.layers], 1)
        return gates.view(*batch.ids.shape, *gates.shape[1:])[batch.answer]
