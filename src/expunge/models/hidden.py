"""Hidden states after one block, at the cost of the blocks that can matter: stop behind it, start where something moves.

A forward is left right behind the block that is asked for. Blocks below the first one that trains never change, so what
enters that one can be kept and fed in again. Both are exact; an architecture in which they are not runs all its blocks.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from expunge.data.batching import Batch, by_length, collate
from expunge.data.tokenize import Encoded
from expunge.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Blocks(NamedTuple):
    """Where a model keeps its decoder blocks."""

    owner: nn.Module
    name: str
    """Of the list within its owner."""
    path: str
    """Of the list within the model, as parameter names have it."""
    modules: nn.ModuleList


def find_blocks(model: PreTrainedModel, layer: int) -> Blocks:
    """The decoder blocks of any causal LM. Raises ConfigError when there is no block `layer` (counted from 0)."""
    count = model.config.get_text_config().num_hidden_layers
    if not 0 <= layer < count:
        raise ConfigError(
            f"layer {layer}: this model has blocks 0 to {count - 1}. Set the layer of both terms, as in --set objective.layer=..."
        )
    text = {id(module) for module in model.get_decoder().modules()}  # another tower may be as deep
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and id(module) in text:
            parent, _, name = path.rpartition(".")
            return Blocks(model.get_submodule(parent), name, path, module)
    raise ConfigError(
        f"{type(model).__name__}: its decoder blocks were not found, so hidden states cannot be trained on."
    )


def keep_blocks(model: PreTrainedModel, count: int) -> None:
    """Cut `model` down to its first `count` blocks, in place; embeddings, final norm and head stay. Raises ConfigError."""
    blocks = find_blocks(model, 0)
    if count > len(blocks.modules):
        raise ConfigError(f"procedure.blocks is {count}, and this model has {len(blocks.modules)} blocks.")
    del blocks.modules[count:]
    config = model.config.get_text_config()
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]


class _LeftError(Exception):
    """The forward has reached the block that was asked for."""


def block_output(model: PreTrainedModel, batch: Batch, layer: int) -> Tensor:
    """[batch, tokens, hidden] what block `layer` puts out (before any final norm). Later blocks are not run."""
    return _run(find_blocks(model, layer), batch, layer, 0, None)


def block_output_from(
    model: PreTrainedModel, batch: Batch, layer: int, first: int, entering: Tensor
) -> Tensor:
    """The same from what enters block `first` ([batch, tokens, hidden]); the blocks below it are not run."""
    return _run(find_blocks(model, layer), batch, layer, first, entering)


def _run(blocks: Blocks, batch: Batch, layer: int, first: int, entering: Tensor | None) -> Tensor:
    seen: list[Tensor] = []

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _LeftError

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": entering}
        return (entering, *args[1:]), kwargs

    handles = [blocks.modules[layer].register_forward_hook(leave)]
    if entering is not None:
        handles.append(blocks.modules[first].register_forward_pre_hook(enter, with_kwargs=True))
        setattr(blocks.owner, blocks.name, blocks.modules[first:])
    owner: Any = blocks.owner
    try:
        owner(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)
    except _LeftError:
        return seen[0]
    finally:
        setattr(blocks.owner, blocks.name, blocks.modules)
        for handle in handles:
            handle.remove()
    raise AssertionError(f"block {layer} was never run")


class HiddenRows:
    """Hidden states after block `layer` at the answer tokens of rows, during a run in which blocks below `first` never change.

    Built from the frozen starting model: what enters block `first` is kept for every row, and with `keep_reference` what comes
    out of block `layer` at its answer tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Mapping[Hashable, Encoded],
        layer: int,
        first: int,
        pad_id: int,
        *,
        keep_reference: bool,
        batch_tokens: int = 4096,
    ):
        self.model, self.layer = model, layer
        self.first = min(first, layer)
        self._entering: dict[Hashable, Tensor] = {}  # [tokens, hidden] each
        self._reference: dict[Hashable, Tensor] = {}  # [answer, hidden] each
        keys = list(rows)
        for near in by_length([len(rows[key].ids) for key in keys], batch_tokens):
            chosen = [keys[i] for i in near]
            batch = collate([rows[key] for key in chosen], pad_id, device=model.device)
            with torch.no_grad():
                out = block_output(model, batch, layer)
                if self.first:
                    self._keep_entering(chosen, rows, batch, out)
            if keep_reference:
                counts = batch.answer.sum(1).tolist()
                self._reference.update(zip(chosen, out[batch.answer].split(counts), strict=True))

    def _keep_entering(
        self, keys: Sequence[Hashable], rows: Mapping[Hashable, Encoded], batch: Batch, out: Tensor
    ) -> None:
        entering = block_output(self.model, batch, self.first - 1)
        try:
            again = block_output_from(self.model, batch, self.layer, self.first, entering)
            exact = torch.allclose(
                again[batch.attention.bool()], out[batch.attention.bool()], atol=1e-5, rtol=1e-4
            )
        except (RuntimeError, TypeError, IndexError, KeyError):
            exact = False
        if not exact:  # this architecture looks at more than what enters a block
            self.first = 0
            self._entering.clear()
            return
        self._entering.update(
            (key, row[: len(rows[key].ids)].clone()) for key, row in zip(keys, entering, strict=True)
        )

    def states(self, batch: Batch, keys: Sequence[Hashable]) -> Tensor:
        """[answer, hidden] of a right-padded batch of the rows `keys`, with gradients."""
        if not self.first:
            return block_output(self.model, batch, self.layer)[batch.answer]
        width = batch.ids.shape[1]
        rows = [self._entering[key] for key in keys]
        entering = torch.stack([nn.functional.pad(row, (0, 0, 0, width - len(row))) for row in rows])
        return block_output_from(self.model, batch, self.layer, self.first, entering)[batch.answer]

    def reference(self, keys: Sequence[Hashable]) -> Tensor:
        """[answer, hidden] of the starting model, row after row."""
        return torch.cat([self._reference[key] for key in keys])

    @property
    def bytes(self) -> int:
        """Memory that is kept."""
        kept = [*self._entering.values(), *self._reference.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def first_trained_block(model: PreTrainedModel, layer: int) -> int:
    """The lowest block with a parameter that takes a gradient; 0 where something below the blocks trains."""
    blocks = find_blocks(model, layer)
    found = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith(blocks.path + "."):
            return 0
        found.append(int(name.removeprefix(blocks.path + ".").split(".")[0]))
    return min(found, default=0)
