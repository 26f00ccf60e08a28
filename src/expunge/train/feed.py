"""What each step of a run draws, and what the losses see of it: rows, micro-batches, views with step totals and reference."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.data.batching import Step, collate, plan_steps
from expunge.data.tokenize import Encoded
from expunge.errors import ConfigError
from expunge.models.activations import Perturbed, perturbed
from expunge.models.experts import Affinity, PickedGates, affinities
from expunge.models.hidden import HiddenRows, first_trained_block
from expunge.models.logprobs import AnswerRows, answer_rows, token_logp
from expunge.models.reference import Reference
from expunge.recipes import Recipe
from expunge.types import Seed, Streams, TokenView

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Key = tuple[str, int, int]
"""(stream, row, which of its alternates)"""


@dataclass
class Rows:
    """The tokenised rows that a run draws on. `alternates[i]` are the other answers to forget row i."""

    forget: Sequence[Encoded] = ()
    retain: Sequence[Encoded] = ()
    alternates: Sequence[Sequence[Encoded]] = ()
    replay: Sequence[Encoded] = ()


def steps_of(
    recipe: Recipe, forget: Sequence[int], retain: Sequence[int], replay: Sequence[int] = ()
) -> list[Step]:
    """The steps of a run on rows of these lengths, with the recipe's own seed and its procedure's share of the epochs."""
    settings = recipe.train
    share = getattr(recipe.axes["procedure"], "epoch_share", 1.0)
    return plan_steps(
        forget_lengths=forget,
        retain_lengths=retain,
        replay_lengths=replay,
        replay=settings.replay,
        batch_size=settings.batch_size,
        epochs=max(1, round(share * settings.epochs)),
        max_steps=settings.max_steps and max(1, round(share * settings.max_steps)),
        pairing=settings.pairing,
        seed=Seed(recipe.seed).child("train"),
    )


def freeze_unnamed(model: PreTrainedModel, selection: Any) -> None:
    """Take the gradient from every tensor that a selection by name leaves out. Raises ConfigError when none is left."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    taken = {name for name in names if selection.takes(name)}
    if not taken:
        raise ConfigError(
            f"selection: no parameter matches {selection.patterns}.\nThis model has, for example: {', '.join(names[:: max(1, len(names) // 6)][:6])}"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in taken)


def freeze_unpicked(model: PreTrainedModel, picked: Mapping[str, Tensor]) -> None:
    """Take the gradient from every tensor of which a selection picked nothing. Raises ConfigError when it picked nothing at all."""
    if not any(mask.any() for mask in picked.values()):
        raise ConfigError("selection: nothing of this model was picked, so nothing would be trained.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in picked)


class Feed:
    """The plan of a run over one model, and its caches of the starting model. Build it before anything changes the model.

    A selection that takes whole tensors, or picks from some, takes the gradient from all others here, so that the caches know
    what cannot change. What it picked is in `picked`: boolean masks by tensor; {} for any other selection.
    """

    def __init__(self, model: PreTrainedModel, recipe: Recipe, rows: Rows, pad_id: int):
        selection = recipe.axes.get("selection")
        self.model = model
        self.rows = rows
        self.pad_id = pad_id
        self.seed = Seed(recipe.seed).child("train")
        settings = recipe.train
        parts = {
            axis: recipe.axes[axis] for axis in ("objective", "weighting", "retain") if axis in recipe.axes
        }
        needs = {axis: part.needs for axis, part in parts.items()}
        self.forget_streams = [
            stream for stream in ("forget", "alternate") if stream in needs.get("objective", ())
        ]
        self.batch_size = settings.batch_size
        self.micro_batch = settings.micro_batch or settings.batch_size
        self.precision = getattr(torch, settings.precision)
        self.picked: dict[str, Tensor] = {}
        if hasattr(selection, "takes"):
            freeze_unnamed(model, selection)
        elif hasattr(selection, "pick"):
            model.requires_grad_(True)  # an earlier stage may have picked others
            self.picked = selection.pick(model, self)
            freeze_unpicked(model, self.picked)
        gated = selection is not None and "router" in selection.needs
        self.gates = PickedGates(model, self.picked) if gated else None
        self.steps = steps_of(
            recipe,
            [len(row.ids) for row in rows.forget] if "objective" in parts else [],
            [len(row.ids) for row in rows.retain] if "retain" in parts else [],
            [len(row.ids) for row in rows.replay],
        )
        forget_needs = needs.get("objective", frozenset()) | needs.get("weighting", frozenset())
        self.wants_key = "key" in forget_needs
        self.wants_logits = {
            "retain": "logits" in needs.get("retain", ()),
            "forget": "logits" in forget_needs,
            "alternate": "logits" in forget_needs,
        }
        self.hidden = {
            stream: self._hidden(stream, part)
            for stream, part in (("forget", parts.get("objective")), ("retain", parts.get("retain")))
            if part and "hidden" in part.needs
        }
        self.reference = {"retain": self._reference(["retain"], needs.get("retain", frozenset()))}
        self.reference["forget"] = self.reference["alternate"] = self._reference(
            self.forget_streams, forget_needs
        )

    @property
    def reference_bytes(self) -> int:
        """Memory that the caches of the starting model take."""
        caches = [*self.reference.values(), *self.hidden.values()]
        return sum(cache.bytes for cache in {id(cache): cache for cache in caches}.values())

    def affinities(self) -> list[Affinity]:
        """How much the forget rows use each expert of each layer. Raises ModelError for a dense model."""
        return affinities(self.model, self.rows.forget, self.pad_id)

    def perturbed(self, samples: int, swaps: int) -> Perturbed:
        """What the model says of forget rows in which some tokens were swapped."""
        return perturbed(
            self.model, self.rows.forget, samples, swaps, self.pad_id, self.seed.child("perturbed")
        )

    def parts(self, step: Step) -> Iterator[slice]:
        """The micro-batches of a step, as slices of its row lists."""
        size = max(len(step.forget), len(step.retain))
        return (slice(first, first + self.micro_batch) for first in range(0, size, self.micro_batch))

    def views(self, step: Step, part: slice, streams: Sequence[str]) -> Streams:
        """One forward over a micro-batch of the named streams, and what the losses see of each."""
        views = {stream: self._hidden_view(step, part, stream) for stream in streams if stream in self.hidden}
        streams = [stream for stream in streams if stream not in self.hidden]
        if not streams:
            return Streams(views)
        keys = {stream: self._keys(step, stream) for stream in streams}
        chosen = {stream: keys[stream][part] for stream in streams}
        batch = collate(
            [self._row(key) for stream in streams for key in chosen[stream]],
            self.pad_id,
            device=self.model.device,
        )
        with self._autocast(), self._gates() as routed:
            seen = answer_rows(self.model, batch)
        first = 0
        for stream in streams:
            views[stream] = self._view(seen, first, len(chosen[stream]), keys[stream], stream)
            self.reference[stream].fill(views[stream], chosen[stream])
            first += len(chosen[stream])
            if self.wants_key and stream == "forget":
                marks = [mark for key in chosen[stream] for mark in self._row(key).key]
                views[stream].key = torch.tensor(marks, device=self.model.device)
        if self.gates and streams[0] == self.forget_streams[0]:
            view = views[streams[0]]
            view.gates = self.gates.at_answers(routed, batch)[: len(view.row)]
            view.chosen = self.gates.chosen
        return Streams(views)

    def _gates(self) -> AbstractContextManager[dict[str, Tensor]]:
        """While open, forwards leave the gates of picked routers in what this yields; nothing where none were picked."""
        return self.gates.recorded() if self.gates else nullcontext({})

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, self.precision, enabled=self.precision != torch.float32)

    def _hidden_view(self, step: Step, part: slice, stream: str) -> TokenView:
        """One forward of a stream up to the block whose output is needed, and what the loss sees of it."""
        keys = self._keys(step, stream)
        chosen = keys[part]
        batch = collate([self._row(key) for key in chosen], self.pad_id, device=self.model.device)
        with self._autocast(), self._gates() as routed:
            states = self.hidden[stream].states(batch, chosen).float()
        view = TokenView(
            logp=states.new_zeros(0),
            targets=batch.ids[batch.answer],
            row=batch.answer.nonzero()[:, 0],
            length=batch.answer.sum(1),
            step_rows=len(keys),
            step_tokens=sum(len(row.ids) - row.start for row in map(self._row, keys)),
        )
        view.hidden = states
        if self.gates and stream == "forget":
            view.gates, view.chosen = self.gates.at_answers(routed, batch), self.gates.chosen
        if stream == "retain":
            view.ref_hidden = self.hidden[stream].reference(chosen)
        return view

    def _view(
        self, seen: AnswerRows, first: int, count: int, step_keys: Sequence[Key], stream: str
    ) -> TokenView:
        """The sequences `first` to `first + count` of a forward, as one stream of the step."""
        before, inside = int(seen.length[:first].sum()), int(seen.length[first : first + count].sum())
        tokens = slice(before, before + inside)
        view = TokenView(
            logp=token_logp(seen.logits[tokens], seen.targets[tokens]),
            targets=seen.targets[tokens],
            row=seen.row[tokens] - first,
            length=seen.length[first : first + count],
            step_rows=len(step_keys),
            step_tokens=sum(len(row.ids) - row.start for row in map(self._row, step_keys)),
        )
        if self.wants_logits[stream]:
            view.logits = seen.logits[tokens]
        return view

    def _hidden(self, stream: str, part: Any) -> HiddenRows:
        rows: dict[Hashable, Encoded] = {
            key: self._row(key) for step in self.steps for key in self._keys(step, stream)
        }
        first = first_trained_block(self.model, part.layer)
        if first > part.layer:
            raise ConfigError(
                f"layer {part.layer}: nothing below block {first} trains, so the states after block {part.layer} cannot change.\n"
                f"Set the layer of both terms to at least {first}, as in --set objective.layer={first}"
            )
        keeps = "ref_hidden" in part.needs
        return HiddenRows(self.model, rows, part.layer, first, self.pad_id, keep_reference=keeps)

    def _reference(self, streams: Sequence[str], needs: frozenset[str]) -> Reference:
        reads = streams if any(need.startswith("ref_") for need in needs) else []
        keys = dict.fromkeys(
            key for step in self.steps for stream in reads for key in self._keys(step, stream)
        )
        return Reference(self.model, {key: self._row(key) for key in keys}, needs, self.pad_id)

    def _keys(self, step: Step, stream: str) -> list[Key]:
        """Which rows of a stream a step uses, in order."""
        if stream == "retain":
            return [("retain", i, 0) for i in step.retain]
        if stream == "forget":
            return [("forget", i, 0) for i in step.forget]
        draw = {
            i: self.seed.child("alternate", i, step.epoch).number % len(self.rows.alternates[i])
            for i in step.forget
        }
        return [("alternate", i, draw[i]) for i in step.forget]

    def _row(self, key: Key) -> Encoded:
        stream, i, which = key
        if stream == "alternate":
            return self.rows.alternates[i][which]
        if stream == "forget":
            return self.rows.forget[i]
        return (
            self.rows.retain[i] if i < len(self.rows.retain) else self.rows.replay[i - len(self.rows.retain)]
        )
