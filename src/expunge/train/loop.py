"""The training loop: one optimiser step is one gradient of the whole step, however it is cut into micro-batches.

Order of operations: accumulate the forget and the retain gradient over the step, combine them by the gradient rule, clip,
step. Denominators are the step's, the reference is cached before the first step, and every choice of rows is made before the
run starts, so a killed run resumes bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.data.batching import Step
from expunge.errors import ConfigError, TrainingError
from expunge.recipes import Recipe, TrainSettings
from expunge.train import checkpoint
from expunge.train.feed import Feed
from expunge.train.selection import pack, select, unpack
from expunge.types import Streams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Probe = Callable[[int], dict[str, Any]]
"""Measures the model as it stands after a number of steps. Its entries hold `utility` (float) and what `train.select` goes by:
`level_reached` (bool), `gold_reached` (bool, or None without a retrained model)."""


@dataclass
class Outcome:
    """What a run leaves beside the weights, which are in the model."""

    steps: int
    chosen_step: int
    """The step whose weights the model now has."""
    level_reached: bool | None
    """Whether `train.select` found its step; None where it takes the last."""
    trained_share: float
    """Share of the model's weights that could move."""
    trace: list[dict[str, Any]]
    """One entry a step: losses, gradient norm, learning rate; probe results where there are any."""


def train(
    model: PreTrainedModel,
    feed: Feed,
    recipe: Recipe,
    *,
    folder: Path | None = None,
    probe: Probe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Run the recipe's loop on the parameters of `model` that require a gradient, which must be float32.

    `folder` keeps the checkpoint that a killed run resumes from. Raises TrainingError when the loss is not finite or has
    exploded; the last checkpoint then stays in `folder`.
    """
    return _Run(model, feed, recipe, folder, probe).finish(progress or (lambda done, total: None))


class _Run:
    def __init__(
        self, model: PreTrainedModel, feed: Feed, recipe: Recipe, folder: Path | None, probe: Probe | None
    ):
        self.model, self.feed, self.recipe, self.probe = model, feed, recipe, probe
        self.settings: TrainSettings = recipe.train
        self.checkpoint = folder / "checkpoint" if folder else None
        selection = recipe.axes.get("selection")
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(self.weights.values())
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.memory: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}
        self.chosen: dict[str, Tensor] = {}
        self.chosen_step, self.chosen_utility = 0, -math.inf
        self.done = 0
        self.trace: list[dict[str, Any]] = []
        if self.checkpoint and (state := checkpoint.load(self.checkpoint)):
            self._restore(state)
        elif feed.picked:
            self.masks = {
                name: pack(feed.picked[name].reshape(-1)).to(p.device) for name, p in self.weights.items()
            }
        elif selection and not hasattr(selection, "takes"):
            self.masks = select(selection, self.weights, feed)
        if (
            self.masks
        ):  # decay moves every weight that the optimiser holds, so the loop applies it to the selected ones
            self.optimiser.param_groups[0]["weight_decay"] = 0.0

    def finish(self, progress: Callable[[int, int], None]) -> Outcome:
        total = len(self.feed.steps)
        self.model.train()
        if self.settings.select != "last" and not (self.probe and self.settings.probe_every):
            raise ConfigError(
                f"train.select is '{self.settings.select}', but nothing is measured on the way.\n"
                "Set train.probe_every and name the benchmark that measures (--benchmark), or take --set train.select=last"
            )
        with torch.random.fork_rng():
            if not self.done and self.probe:
                self.trace.append({"step": 0, **self._probe(0)})
            for step in self.feed.steps[self.done :]:
                torch.manual_seed(self.feed.seed.child("dropout", self.done).number % 2**63)
                entry = self._step(step)
                self.done += 1
                last = self.done == total
                if (
                    self.probe
                    and self.settings.probe_every
                    and (self.done % self.settings.probe_every == 0 or last)
                ):
                    entry |= self._probe(self.done)
                self.trace.append(entry)
                if self.checkpoint and (self.done % self.settings.checkpoint_every == 0) and not last:
                    self._save()
                progress(self.done, total)
                if self.settings.select == "gold" and self.chosen:
                    break
        self.model.eval()
        reached = bool(self.chosen) if self.settings.select != "last" else None
        if self.chosen:
            self._put(self.chosen)
        step = self.chosen_step if self.chosen else self.done
        return Outcome(self.done, step, reached, self.trained_share, self.trace)

    def _step(self, step: Step) -> dict[str, Any]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * rate(self.done, len(self.feed.steps), self.settings)
        self.optimiser.zero_grad(set_to_none=True)
        entry: dict[str, Any] = {"step": self.done + 1, "learning_rate": self.optimiser.param_groups[0]["lr"]}
        rule, axes = self.recipe.axes["gradient"], self.recipe.axes
        weight, adaptive = self.recipe.retain_weight, None
        if "retain" in axes and hasattr(axes["retain"], "multiplier"):
            adaptive = axes["retain"]
            weight = weight * adaptive.multiplier(self.memory)
            entry["multiplier"] = weight
        hold: list[Tensor] = []
        forget, retain = self.feed.forget_streams, ["retain"] if "retain" in axes else []
        if rule.separate:
            self._backward(step, forget, entry)
            pull = self._take_gradients()
            self._mask(pull)
            self._backward(step, retain, entry)
            hold = self._take_gradients()
            self._mask(hold)
            entry |= rule.combine(pull, hold, self.memory)
            for parameter, g, r in zip(self.parameters, pull, hold, strict=True):
                parameter.grad = g.add_(r, alpha=weight)
        else:
            self._backward(step, [*forget, *retain], entry, weight)
            self._mask([parameter.grad for parameter in self.parameters])
        entry["gradient_norm"] = float(
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf)
        )
        self._refuse_explosion(entry)
        self._decay()
        self.optimiser.step()
        if rule.separate:
            entry["step_cosine"] = self._step_cosine(hold)
        if adaptive:
            adaptive.learn(entry["retain_loss"], self.memory)
        return entry

    def _backward(
        self, step: Step, streams: Sequence[str], entry: dict[str, Any], retain_weight: float = 1.0
    ) -> None:
        """Add the gradient of all that is said about the named streams over the whole step: one forward and one backward per
        micro-batch. What a selection or an adapter holds belongs to the forget side.
        """
        forgets, retains = bool(set(streams) & set(self.feed.forget_streams)), "retain" in streams
        selection, adapter = (self.recipe.axes.get(axis) for axis in ("selection", "adapter"))
        for part in self.feed.parts(step):
            views = self.feed.views(step, part, streams)
            loss = torch.zeros((), device=self.model.device)
            if forgets:
                forget_loss = _noted(entry, "forget_loss", self._forget_loss(views))
                loss = loss + self.recipe.forget_weight * forget_loss
            if forgets and hasattr(selection, "penalty"):
                loss = loss + _noted(entry, "penalty", selection.penalty(views))
            if retains:
                retain_loss = _noted(entry, "retain_loss", self.recipe.axes["retain"](views.retain))
                loss = loss + retain_weight * retain_loss
            loss.backward()
        if forgets and hasattr(adapter, "penalty"):
            penalty = _noted(entry, "penalty", adapter.penalty(self.model))
            if penalty.requires_grad:
                penalty.backward()

    def _forget_loss(self, views: Streams) -> Tensor:
        weighting = self.recipe.axes.get("weighting")
        view = views.views[self.feed.forget_streams[0]]
        weight = weighting(view) if weighting else torch.ones(len(view.row), device=view.row.device)
        return self.recipe.axes["objective"](views, weight)

    def _take_gradients(self) -> list[Tensor]:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.optimiser.zero_grad(set_to_none=True)
        return gradients

    def _mask(self, gradients: Sequence[Tensor | None]) -> None:
        """Zero, in place, what belongs to weights that were not selected: before the gradient rule and before clipping."""
        for name, gradient in zip(self.weights, gradients, strict=True) if self.masks else ():
            if gradient is not None:
                gradient.mul_(unpack(self.masks[name], gradient.shape))

    def _decay(self) -> None:
        """AdamW's weight decay, on selected weights alone."""
        rate = self.optimiser.param_groups[0]["lr"] * self.settings.weight_decay
        for name, packed in self.masks.items() if rate else ():
            weight = self.weights[name].detach()
            weight[unpack(packed, weight.shape)] *= 1 - rate

    def _step_cosine(self, retain: Sequence[Tensor]) -> float:
        """Cosine of the descent that Adam made of the combined gradient with the retain gradient; below 0 they conflict.

        Taken tensor by tensor from Adam's moments, without a copy of the weights; weight decay is left out.
        """
        dot = size = other = 0.0
        first, second = self.settings.betas
        for parameter, r in zip(self.parameters, retain, strict=True):
            state = self.optimiser.state.get(parameter)
            if not state:
                continue
            steps = float(state["step"])
            scale = (state["exp_avg_sq"] / (1 - second**steps)).sqrt().add_(1e-8)
            step = state["exp_avg"] / (1 - first**steps) / scale
            dot += float((step.double() * r.double()).sum())
            size += float(step.double().square().sum())
            other += float(r.double().square().sum())
        return dot / max((size * other) ** 0.5, 1e-30)

    @property
    def trained_share(self) -> float:
        """Share of all the model's weights that the run may move."""
        total = sum(parameter.numel() for parameter in self.model.parameters())
        if not self.masks:
            return sum(parameter.numel() for parameter in self.parameters) / total
        return (
            sum(int(unpack(packed, self.weights[name].shape).sum()) for name, packed in self.masks.items())
            / total
        )

    def _probe(self, step: int) -> dict[str, Any]:
        self.model.eval()
        assert self.probe is not None
        found = self.probe(step)
        self.model.train()
        if step and self._better(found):
            self.chosen = {name: p.detach().clone() for name, p in self.weights.items()}
            self.chosen_step, self.chosen_utility = step, found["utility"]
        return found

    def _better(self, found: dict[str, Any]) -> bool:
        """Whether `train.select` takes this point instead of what it has taken so far."""
        if self.settings.select == "gold":
            if found["gold_reached"] is None:
                raise ConfigError(
                    "train.select is 'gold', but no retrained model was given to compare with. Give it with --gold, or take --set train.select=last"
                )
            return found["gold_reached"]
        return (
            self.settings.select == "level"
            and found["level_reached"]
            and found["utility"] > self.chosen_utility
        )

    def _refuse_explosion(self, entry: dict[str, Any]) -> None:
        values = {
            name: entry[name] for name in ("forget_loss", "retain_loss", "gradient_norm") if name in entry
        }
        bad = {
            name: value
            for name, value in values.items()
            if not math.isfinite(value) or (name != "gradient_norm" and abs(value) > self.settings.max_loss)
        }
        if bad:
            name, value = next(iter(bad.items()))
            kept = (
                f"The checkpoint of step {self.done // self.settings.checkpoint_every * self.settings.checkpoint_every} is kept in {self.checkpoint}."
                if self.checkpoint and self.checkpoint.exists()
                else "No checkpoint had been due yet."
            )
            raise TrainingError(
                f"step {self.done + 1}: {name.replace('_', ' ')} is {value:.4g}, so training stopped before changing the weights with it.\n"
                f"{kept}\nLower the learning rate (now {self.settings.learning_rate:g}), for example  --set train.learning_rate={self.settings.learning_rate / 10:g}"
            )

    # --- checkpoints ----------------------------------------------------------------------------------------------------
    def _save(self) -> None:
        assert self.checkpoint is not None
        weights: dict[str, Tensor] = dict(self.weights)
        tensors = {"weights": weights, "optimiser": checkpoint.optimiser_tensors(self.optimiser)}
        groups = {"memory": self.memory, "masks": self.masks, "chosen": self.chosen}
        tensors |= {name: group for name, group in groups.items() if group}
        checkpoint.save(
            self.checkpoint,
            checkpoint.State(
                self.done,
                tensors,
                {
                    "trace": self.trace,
                    "chosen": [self.chosen_step, self.chosen_utility] if self.chosen else None,
                },
            ),
        )

    def _restore(self, state: checkpoint.State) -> None:
        self.done = state.step
        self._put(state.tensors["weights"])
        checkpoint.restore_optimiser(self.optimiser, state.tensors["optimiser"])
        self.memory = {
            name: tensor.to(self.model.device) for name, tensor in state.tensors.get("memory", {}).items()
        }
        self.masks = {
            name: tensor.to(self.model.device) for name, tensor in state.tensors.get("masks", {}).items()
        }
        self.chosen = state.tensors.get("chosen", {})
        if state.facts["chosen"]:
            self.chosen_step, self.chosen_utility = state.facts["chosen"]
        self.trace = state.facts["trace"]

    def _put(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.weights.items():
                parameter.copy_(values[name])


def _noted(entry: dict[str, Any], name: str, share: Tensor) -> Tensor:
    """The share of a loss, added to what the trace says of the step."""
    entry[name] = entry.get(name, 0.0) + float(share.detach())
    return share


def rate(step: int, total: int, settings: TrainSettings) -> float:
    """The learning rate of a step (counted from 0) as a share of its peak."""
    warm = settings.warmup * total
    if step < warm:
        return (step + 1) / (warm + 1)
    if settings.schedule == "constant":
        return 1.0
    through = (step - warm) / max(1.0, total - warm)
    fall = (1 + math.cos(math.pi * through)) / 2 if settings.schedule == "cosine" else 1 - through
    return settings.final_rate + (1 - settings.final_rate) * fall
