"""The stages of a training run: what the procedure asks for next, until there is nothing; on disk between two of them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from expunge.artifacts import store
from expunge.run.writers import open_writer
from expunge.types import Course, Given, Seed, Shown, Stage

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from expunge.models.language_model import TransformerLM
    from expunge.run.makers import Order
    from expunge.train.feed import Rows
    from expunge.train.loop import Outcome


class Stages:
    """The stages of a procedure, each a run of the loop; between two of them everything is on disk."""

    def __init__(self, order: Order, lm: TransformerLM):
        self.order, self.lm = order, lm
        self.recipe, self.model = order.recipe, lm.model
        self.procedure, self.adapter = self.recipe.axes["procedure"], self.recipe.axes.get("adapter")
        self.staged = hasattr(self.procedure, "stage")
        self.adapted: Any = None
        self.outcomes: list[dict[str, Any]] = []
        self.trace: list[dict[str, Any]] = []
        self.memory: dict[str, Any] = {}
        self.timings = {"reference": 0.0, "training": 0.0}
        self.reference_bytes = 0
        self.start: dict[str, Tensor] = {}
        from expunge.models.masked import MaskedLM

        forget = [record for record in order.data.forget if record.shape != "subject"]
        retain = order.data.retain
        writer = open_writer(order.writer, lm, [*forget, *retain], self.recipe.seed)
        given = Given(order.refusals, Seed(self.recipe.seed).child("data"), writer, MaskedLM.open)
        show = self.recipe.axes["data"].show
        self.course = Course(
            self.recipe, forget, retain, lambda rows: show(rows, retain, given), lm, writer, self.memory
        )

    def finish(self) -> None:
        """Run all stages that are not done yet."""
        if hasattr(self.procedure, "finish") or getattr(self.procedure, "reference", "now") == "start":
            self.start = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters()}
        self._resume()
        while stage := self._stage(len(self.outcomes)):
            self._run(stage)
        if hasattr(self.procedure, "finish"):
            self.procedure.finish(dict(self.model.named_parameters()), self.start)

    def _stage(self, number: int) -> Stage | None:
        if self.staged:
            return self.procedure.stage(number, self.course)
        return Stage(self.recipe, self.course.show(self.course.forget)) if number == 0 else None

    def _run(self, stage: Stage) -> None:
        folder = self.order.folder / f"stage-{len(self.outcomes)}" if self.staged else self.order.folder
        before = sum(outcome["steps"] for outcome in self.outcomes)
        probe = self.order.probe
        train = self._train_privately if stage.privacy else self._train
        outcome, facts = train(
            stage,
            folder=folder,
            probe=(lambda step: probe(self.lm, before + step)) if probe else None,
            progress=lambda done, total: self.order.progress(stage.name or "training", done, total),
        )
        self._keep(stage, outcome, facts)
        store.remove(folder if self.staged else folder / "checkpoint")

    def _train(self, stage: Stage, **options: Any) -> tuple[Outcome, dict[str, Any]]:
        """One run of the loop: reference, adapter, what the stage changes beforehand, steps."""
        from expunge.train.feed import Feed
        from expunge.train.loop import train

        begin = time.perf_counter()
        if not self.adapter:
            self.lm.let_train()
        with self._reference(stage):
            feed = Feed(self.model, stage.recipe, self._rows(stage.shown), self.lm.pad_id)
        self.reference_bytes = max(self.reference_bytes, feed.reference_bytes)
        self.timings["reference"] += time.perf_counter() - begin
        self._adapt(len(self.outcomes))
        if stage.prepare:
            stage.prepare(self.model)
        begin = time.perf_counter()
        outcome = train(self.model, feed, stage.recipe, **options)
        self.timings["training"] += time.perf_counter() - begin
        return outcome, {}

    def _train_privately(self, stage: Stage, **options: Any) -> tuple[Outcome, dict[str, Any]]:
        """Steps with differential privacy on the stage's retain rows, and what they promise."""
        from expunge.train.private import privacy_facts, train_private

        rows = self._rows(stage.shown).retain
        begin = time.perf_counter()
        seed = Seed(self.recipe.seed).child("train")
        outcome = train_private(self.model, rows, stage.privacy, pad_id=self.lm.pad_id, seed=seed, **options)
        self.timings["training"] += time.perf_counter() - begin
        return outcome, {"privacy": privacy_facts(stage.privacy, len(rows))}

    def _rows(self, shown: Shown) -> Rows:
        from expunge.train.feed import Rows

        encode = self.lm.encoder.examples
        return Rows(
            encode(shown.forget, needs_key="key" in self.recipe.needs),
            encode(shown.retain),
            [encode(others) for others in shown.alternates],
            encode([record.example() for record in self.order.replay]),
        )

    def _adapt(self, number: int) -> None:
        """Start the adapter, after the first stage's reference was cached; one that stacks gets another for each stage."""
        if self.adapter and self.adapted is None:
            self.adapted = self.adapter.attach(self.model, self.recipe.seed, self._squares)
        elif hasattr(self.adapter, "attach_next"):
            self.adapter.attach_next(self.adapted, number + 1, self.recipe.seed)

    def _squares(self, stream: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean squared gradients of the starting model on the forget rows or as many retain rows."""
        from expunge.train.selection import retain_sample
        from expunge.train.statistics import mean_squares

        rows = self._rows(self.course.show(self.course.forget))
        drawn = (
            rows.forget if stream == "forget" else retain_sample(rows, Seed(self.recipe.seed).child("train"))
        )
        return mean_squares(self.model, weights, drawn, self.lm.pad_id)

    @contextmanager
    def _reference(self, stage: Stage) -> Generator[None]:
        """The model as the stage's frozen reference has it: as it is, or as it was before the first stage."""
        if stage.reference == "now" or not self.outcomes:
            yield
        elif self.adapted is not None:
            with self.adapted.disable_adapter():
                yield
        else:
            now = {name: p.detach().clone() for name, p in self.model.named_parameters()}
            _put(self.model, self.start)
            yield
            _put(self.model, now)

    # --- between stages -------------------------------------------------------------------------------------------------
    def _keep(self, stage: Stage, outcome: Outcome, facts: dict[str, Any]) -> None:
        from expunge.train import checkpoint

        facts = {name: value for name, value in vars(outcome).items() if name != "trace"} | facts
        if self.staged:  # steps are counted over all stages
            before = sum(past["steps"] for past in self.outcomes)
            facts = {"stage": stage.name, **facts, "chosen_step": before + outcome.chosen_step}
            outcome.trace = [
                {"stage": stage.name, **entry, "step": before + entry["step"]} for entry in outcome.trace
            ]
        self.outcomes.append(facts)
        self.trace += outcome.trace
        if self.staged:
            facts = {
                "outcomes": self.outcomes,
                "trace": self.trace,
                "memory": self.memory,
                "timings": self.timings,
            }
            checkpoint.save(
                self.order.folder / "stages",
                checkpoint.State(len(self.outcomes), {"weights": self._moved()}, facts),
            )

    def _resume(self) -> None:
        from expunge.train import checkpoint

        state = checkpoint.load(self.order.folder / "stages")
        if state is None:
            return
        self.outcomes, self.trace = state.facts["outcomes"], state.facts["trace"]
        self.memory.update(state.facts["memory"])
        self.timings = state.facts["timings"]
        for number in range(len(self.outcomes) if self.adapter else 0):
            self._adapt(number)
        _put(self.model, state.tensors["weights"])

    def _moved(self) -> dict[str, Tensor]:
        """The weights that stages change: an adapter's own, or all."""
        return {name: p for name, p in self.model.named_parameters() if not self.adapter or "lora_" in name}


def _put(model: PreTrainedModel, values: dict[str, Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in values:
                parameter.copy_(values[name])
