"""What passes through named modules in single forwards: keys of a layer, states after a block, neurons under perturbation."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from expunge.data.batching import Batch, by_length, collate
from expunge.data.tokenize import Encoded
from expunge.models.hidden import find_blocks
from expunge.models.logprobs import answer_rows, token_logp
from expunge.types import Seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Perturbed(NamedTuple):
    """What a model makes of perturbed rows, one sample a row."""

    features: Tensor  # [samples, neurons] mean output over the tokens, float32
    losses: Tensor  # [samples] -log p of the whole answer, nats
    layers: dict[str, int]
    """Linear layers by name with the number of their neurons, in the order of the features."""


@contextmanager
def watched(
    modules: Mapping[Any, nn.Module], side: Literal["input", "output"]
) -> Generator[dict[Any, Tensor]]:
    """While open, the dict holds what last entered or left each module. Hooks go by their own handles, whatever happens."""
    seen: dict[Any, Tensor] = {}

    def keep(key: Any):
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            value = args[0] if side == "input" else output
            seen[key] = value[0] if isinstance(value, tuple) else value

        return hook

    handles = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """All linear layers by name, but for the output head."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


@torch.no_grad()
def run_blocks(model: PreTrainedModel, batch: Batch) -> None:
    """Push a batch through the decoder blocks, for those who watch them; nothing meets the vocabulary."""
    owner: Any = find_blocks(model, 0).owner
    owner(input_ids=batch.ids, attention_mask=batch.attention, use_cache=False)


def input_moments(
    model: PreTrainedModel,
    modules: Mapping[int, nn.Linear],
    rows: Sequence[Encoded],
    pad_id: int,
    batch_tokens: int = 4096,
) -> dict[int, Tensor]:
    """By module, the mean over all tokens of `rows` of x xᵀ, where x is what enters it: [in, in] in float64."""
    moments: dict[int, Tensor] = {}
    with watched(modules, "input") as seen:
        for near in by_length([len(row.ids) for row in rows], batch_tokens):
            batch = collate([rows[i] for i in near], pad_id, device=model.device)
            run_blocks(model, batch)
            for key, entering in seen.items():
                x = entering[batch.attention.bool()].double()  # [tokens, in]
                moments[key] = moments.get(key, 0) + x.T @ x
    tokens = sum(len(row.ids) for row in rows)
    return {key: moment / tokens for key, moment in moments.items()}


@torch.no_grad()
def perturbed(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    samples: int,
    swaps: int,
    pad_id: int,
    seed: Seed,
    batch_tokens: int = 4096,
) -> Perturbed:
    """Rows in turn, each with `swaps` of its input tokens replaced by tokens drawn from all rows; the loss is that of the
    row's own answer.
    """
    generator = torch.Generator().manual_seed(seed.number)
    pool = torch.tensor([token for row in rows for token in row.ids[:-1]])
    drawn: list[tuple[Encoded, Encoded]] = []
    for sample in range(samples):
        row = rows[sample % len(rows)]
        ids = torch.tensor(row.ids)
        places = torch.randperm(len(ids) - 1, generator=generator)[:swaps]  # the last token is read by nobody
        ids[places] = pool[torch.randint(len(pool), places.shape, generator=generator)]
        drawn.append((row, row._replace(ids=ids.tolist())))
    layers = linear_layers(model)
    features = torch.empty(samples, sum(layer.out_features for layer in layers.values()))
    losses = torch.empty(samples)
    with watched(layers, "output") as seen:
        for near in by_length([len(row.ids) for row, _ in drawn], batch_tokens):
            right = collate([drawn[i][0] for i in near], pad_id, device=model.device)
            batch = collate([drawn[i][1] for i in near], pad_id, device=model.device)
            found = answer_rows(model, batch)
            logp = token_logp(found.logits, right.ids[right.answer])
            losses[near] = -logp.new_zeros(len(near)).index_add(0, found.row, logp).cpu()
            weight = batch.attention / batch.attention.sum(1, keepdim=True)
            means = [torch.einsum("bt,btn->bn", weight, seen[name].float()) for name in layers]
            features[near] = torch.cat(means, 1).cpu()
    return Perturbed(features, losses, {name: layer.out_features for name, layer in layers.items()})
