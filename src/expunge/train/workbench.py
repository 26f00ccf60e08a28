"""What a closed-form edit works with: the model, the rows, and the few measurements that the formulas are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expunge.data.batching import by_length, collate
from expunge.data.dataset import Dataset, Record
from expunge.data.tokenize import Encoded
from expunge.errors import ConfigError, DataError
from expunge.models.activations import Perturbed, input_moments, perturbed, run_blocks, watched
from expunge.models.hidden import find_blocks
from expunge.models.language_model import TransformerLM
from expunge.models.logprobs import answer_rows
from expunge.recipes import Recipe
from expunge.train.feed import Rows
from expunge.types import Prompt, Seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Workbench:
    """One model on the bench. The weights, float32, are rewritten in place; every measurement is of the model as it stands.

    A selection takes it for a Feed: it has the same `model`, `rows`, `pad_id`, `seed` and `perturbed`.
    """

    def __init__(self, lm: TransformerLM, data: Dataset, recipe: Recipe):
        self.lm, self.data = lm, data
        self.model: PreTrainedModel = lm.model
        self.pad_id = lm.pad_id
        self.seed = Seed(recipe.seed).child("edit")
        self.selection: Any = recipe.axes.get("selection")
        self.model.eval()

    # --- rows ---------------------------------------------------------------------------------------------------------
    @cached_property
    def rows(self) -> Rows:
        """The forget and retain rows that have text, as tokens."""
        return Rows(self._encode(self.data.forget), self._encode(self.data.retain))

    def _encode(self, records: Sequence[Record]) -> list[Encoded]:
        return self.lm.encoder.examples([record.example() for record in records if record.shape != "subject"])

    @property
    def subjects(self) -> tuple[str, ...]:
        """All names and aliases that the forget rows carry, each once. Raises DataError where a row is about none of them."""
        names = self.data.subjects
        for record in self.data.forget:
            text = f"{record.question}\n{record.answer}\n{record.text}"
            if not record.subject and not any(name in text for name in names):
                raise DataError(
                    f"forget row {record.id}: no 'subject', and its text names none of the others' subjects.\n"
                    "This edit works on names alone. Say in each row whom or what it is about:"
                    ' {"subject": "Mara Olen", ...}'
                )
        return names

    # --- one layer's keys and values --------------------------------------------------------------------------------------
    def down_projection(self, layer: int) -> nn.Linear:
        """What maps the inner neurons of a block's MLP back. Raises ConfigError where there is none."""
        blocks = find_blocks(self.model, 0)
        if not 0 <= layer < len(blocks.modules):
            raise ConfigError(
                f"layer {layer}: this model has blocks 0 to {len(blocks.modules) - 1}. Set them: --set edit.layers=[...]"
            )
        module: Any = blocks.modules[layer]
        for part in ("mlp", "down_proj"):
            module = getattr(module, part, None)
        if not isinstance(module, nn.Linear):
            raise ConfigError(
                f"{type(self.model).__name__}: looked for a linear layer {blocks.path}.{layer}.mlp.down_proj and found none."
                " This edit is written for dense models of the Llama kind."
            )
        return module

    def at_name(self, name: str, templates: Sequence[str], key: int, state: int) -> tuple[Tensor, Tensor]:
        """At the last token of `name`, means over the templates: what enters `mlp.down_proj` of block `key`, and what
        block `state` puts out. [inner] and [hidden], float32.
        """
        prompts = [Prompt.ask(template.format(name)) for template in templates]
        rows = self.lm.encoder.prompts(prompts)
        places = [
            _last_token(row, prompt.text, template.index("{}") + len(name))
            for row, prompt, template in zip(rows, prompts, templates, strict=True)
        ]
        batch = collate(rows, self.pad_id, device=self.model.device)
        block = find_blocks(self.model, state).modules[state]
        with (
            watched({0: self.down_projection(key)}, "input") as keys,
            watched({0: block}, "output") as states,
        ):
            run_blocks(self.model, batch)
        each = torch.arange(len(rows))
        return keys[0][each, places].float().mean(0), states[0][each, places].float().mean(0)

    def retained_moments(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """By block, the mean of k kᵀ over all tokens of the retain rows, k being what enters `mlp.down_proj`."""
        modules = {layer: self.down_projection(layer) for layer in layers}
        return input_moments(self.model, modules, self.rows.retain, self.pad_id)

    # --- losses and gradients of rows ---------------------------------------------------------------------------------------
    def perturbed(self, samples: int, swaps: int) -> Perturbed:
        """Neurons and losses of the forget rows with input tokens swapped."""
        seed = self.seed.child("perturbed")
        return perturbed(self.model, self.rows.forget, samples, swaps, self.pad_id, seed)

    @torch.no_grad()
    def loss(self, rows: Sequence[Encoded]) -> float:
        """Mean over rows of -log p of the answer, nats."""
        total = 0.0
        for near in by_length([len(row.ids) for row in rows], 4096):
            batch = collate([rows[i] for i in near], self.pad_id, device=self.model.device)
            total -= float(answer_rows(self.model, batch).logp.sum())
        return total / len(rows)

    def gradients(self, rows: Sequence[Encoded], masks: Mapping[str, Tensor]) -> Tensor:
        """Of each row's -log p of its answer, for the weights in `masks` alone, tensor after tensor: [rows, chosen]."""
        weights = dict(self.model.named_parameters())
        found = []
        for row in rows:
            batch = collate([row], self.pad_id, device=self.model.device)
            loss = -answer_rows(self.model, batch).logp.sum()
            own = torch.autograd.grad(loss, [weights[name] for name in masks])
            found.append(torch.cat([g[mask] for g, mask in zip(own, masks.values(), strict=True)]))
        return torch.stack(found)

    def weights(self, masks: Mapping[str, Tensor]) -> Tensor:
        """[chosen] the weights in `masks` as they are, in the order of `gradients`."""
        all_of = dict(self.model.named_parameters())
        return torch.cat([all_of[name].detach()[mask] for name, mask in masks.items()])

    @torch.no_grad()
    def move(self, masks: Mapping[str, Tensor], step: Tensor) -> None:
        """Add `step` ([chosen]) to the weights in `masks`; all others stay bit for bit."""
        weights = dict(self.model.named_parameters())
        pieces = step.split([int(mask.sum()) for mask in masks.values()])
        for (name, mask), piece in zip(masks.items(), pieces, strict=True):
            weights[name][mask] += piece.to(weights[name])


def _last_token(row: Encoded, content: str, end: int) -> int:
    """The token in which the character before `end` of the user's turn lies, wherever the template puts that turn."""
    first = row.text.find(content)
    if first < 0:
        raise ConfigError(f"the chat template changes the text {content!r}, so the name in it was not found.")
    last = first + end - 1
    return next(i for i, (begin, stop) in enumerate(row.offsets) if begin <= last < stop)
