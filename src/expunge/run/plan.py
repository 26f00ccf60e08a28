"""What a run will take, from counts, before anything runs: passes, tokens, floating-point operations, memory.

A matrix takes 2 operations a weight and token in a forward. A backward takes 2 more where something below it trains, and 2 more where
it trains itself. Blocks are counted where they run: a method that looks at the hidden states of one block (`rmu`, `embed`) stops
behind it and, once what enters the first block that trains is kept, starts there. Attention's own products, of tokens with tokens,
are left out: they are few for rows far shorter than the model is wide. All experts of a mixture are counted. The time is what the
device needs for so many operations at the speed of one measured matrix product: near for wide models, far below the truth for tiny
ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError
from expunge.recipes import Recipe
from expunge.run.make import refuse_missing_data
from expunge.types import Course, Given, Seed, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from expunge.data.batching import Step
    from expunge.data.dataset import Dataset
    from expunge.data.tokenize import Encoded

ACTIVATIONS = 16
"""Numbers kept a token, layer and hidden unit for the backward pass, roughly."""


def plan(
    model: str | Path, data: Dataset, recipe: Recipe, *, template: str = "auto", device: str | None = None
) -> dict[str, Any]:
    """Steps, tokens, operations, seconds and memory (MiB) of `unlearn` with a training recipe.

    Weights are not loaded. Raises ConfigError for a guard, an edit, and for a procedure that asks the model what comes next, DataError for rows
    that are missing, ModelError for a model that is not there.
    """
    if recipe.kind != "training":
        kind = "a guard" if recipe.kind == "guard" else "an edit"
        trains = any(getattr(value, "trains", False) for value in recipe.axes.values())
        raise ConfigError(
            f"'{recipe.method}' is {kind}: "
            + (
                "what it trains is a run of its own; plan that one, such as --recipe pocket-uld-assistant."
                if trains
                else "it trains nothing, so there are no steps to plan."
            )
        )
    if getattr(recipe.axes["procedure"], "asks", False):
        raise ConfigError(
            f"'{recipe.method}' asks the model before each round what to train on, so its steps cannot be counted beforehand."
        )
    refuse_missing_data(recipe, data)
    import torch

    from expunge.data.tokenize import Encoder
    from expunge.models.load import load_config, load_tokenizer, model_class

    config, tokenizer = load_config(model), load_tokenizer(model)
    with torch.device("meta"):
        shape: Any = model_class(config).from_config(config)
        total = sum(parameter.numel() for parameter in shape.parameters())
        _make_ready(shape, recipe)
    costs = _Costs(shape)
    encode = Encoder(tokenizer, config.get_text_config().max_position_embeddings, template).examples
    work, steps = _Work(), 0
    for stage in _stages(recipe, data):
        rows = {
            "forget": encode(stage.shown.forget),
            "retain": encode(stage.shown.retain),
            "alternate": [others[0] for others in map(encode, stage.shown.alternates)],
        }
        planned = _steps(stage, rows)
        steps += len(planned)
        work.add(_work(stage.recipe, rows, planned, shape, costs))
    settings = recipe.train
    text = config.get_text_config()
    largest = settings.micro_batch or settings.batch_size
    at_once = work.tokens / max(1, steps) * min(1.0, largest / settings.batch_size)
    separate = getattr(recipe.axes["gradient"], "separate", False)
    mib = {
        "weights": 4 * costs.weights,
        "gradients": 4 * costs.trained * (3 if separate else 1),  # either pull, and what the rule remembers
        "optimiser": 8 * costs.trained,
        "activations": ACTIVATIONS * 4 * at_once * work.blocks * text.hidden_size
        + 3 * 4 * at_once * work.answers / max(1, work.tokens) * text.vocab_size,
    }
    speed = _speed(device)
    return {
        "method": recipe.method,
        "parameters": total,
        "trained": costs.trained,
        "steps": steps,
        "tokens": work.tokens,
        "reference_tokens": work.reference_tokens,
        "operations": work.operations,
        "operations_per_second": speed,
        "seconds": work.operations / speed,
        "mib": {name: round(size / 2**20, 1) for name, size in mib.items()},
    }


def _stages(recipe: Recipe, data: Dataset) -> list[Stage]:
    """What the procedure will run, with texts that rules write where a data construction asks for some."""
    from expunge.data.writers import Borrow
    from expunge.models.masked import MaskedLM

    forget = [record for record in data.forget if record.shape != "subject"]
    retain = data.retain
    writer = Borrow([*forget, *retain])
    given = Given((), Seed(recipe.seed).child("data"), writer, MaskedLM.open)
    show = recipe.axes["data"].show
    if not hasattr(recipe.axes["procedure"], "stage"):
        return [Stage(recipe, show(forget, retain, given))]
    nobody: Any = None  # no procedure that can be planned asks the model
    course = Course(recipe, forget, retain, lambda rows: show(rows, retain, given), nobody, writer, {})
    found = []
    while stage := recipe.axes["procedure"].stage(len(found), course):
        found.append(stage)
    return found


def _steps(stage: Stage, rows: Mapping[str, Sequence[Encoded]]) -> list[Step]:
    from expunge.train.feed import steps_of

    lengths = {name: [len(row.ids) for row in found] for name, found in rows.items()}
    return steps_of(
        stage.recipe,
        lengths["forget"] if stage.recipe.axes["procedure"].forgets else [],
        lengths["retain"] if "retain" in stage.recipe.axes else [],
    )


@dataclass
class _Work:
    """What a run does."""

    operations: int = 0
    tokens: int = 0
    """In steps."""
    answers: int = 0
    """Answer tokens in steps that meet the vocabulary."""
    reference_tokens: int = 0
    """Read once by the starting model."""
    blocks: int = 0
    """Blocks whose activations wait for the backward pass."""

    def add(self, other: _Work) -> None:
        """What another stage does, afterwards."""
        self.operations += other.operations
        self.tokens += other.tokens
        self.answers += other.answers
        self.reference_tokens += other.reference_tokens
        self.blocks = max(self.blocks, other.blocks)


def _work(
    recipe: Recipe,
    rows: Mapping[str, Sequence[Encoded]],
    steps: Sequence[Step],
    shape: PreTrainedModel,
    costs: _Costs,
) -> _Work:
    from expunge.models.hidden import first_trained_block

    work, every = _Work(), costs.count - 1
    for name in ("forget", "alternate", "retain"):
        part = recipe.axes.get("retain" if name == "retain" else "objective")
        if part is None or name not in part.needs:
            continue
        drawn = [i for step in steps for i in (step.retain if name == "retain" else step.forget)]
        tokens, answers = _lengths(rows[name], drawn)
        once, once_answers = _lengths(rows[name], set(drawn))
        work.tokens += tokens
        last = part.layer if "hidden" in part.needs else every
        work.blocks = max(work.blocks, last + 1 - costs.lowest)
        if "hidden" in part.needs:
            first = min(first_trained_block(shape, last), last)
            work.operations += tokens * costs.blocks(first, last)
            passes = (
                2 if first else 1
            )  # what enters the first block is kept, and the rest run again to check it
            work.operations += passes * once * costs.forward(last)
            work.reference_tokens += once
            continue
        work.answers += answers
        work.operations += tokens * costs.blocks(0, last) + answers * costs.head
        axes = ("retain",) if name == "retain" else ("objective", "weighting")
        references = {need for need in _needs(recipe, *axes) if need.startswith("ref_")}
        if references:
            work.reference_tokens += once
            work.operations += once * costs.forward(last) + once_answers * costs.head_forward
        if "ref_logits" in references:
            work.operations += answers * costs.head_forward
    for name in {"forget", "retain"} & _needs(recipe, "selection", "adapter"):  # gradients, once
        tokens, answers = _lengths(rows[name], range(min(len(rows[name]), len(rows["forget"]))))
        work.operations += 3 * (tokens * costs.forward(every) + answers * costs.head_forward)
    return work


def _lengths(rows: Sequence[Encoded], which: Iterable[int]) -> tuple[int, int]:
    """Tokens of some rows, and how many of them are answer tokens."""
    lengths = [(len(rows[i].ids), len(rows[i].ids) - rows[i].start) for i in which]
    return sum(tokens for tokens, _ in lengths), sum(answers for _, answers in lengths)


def _needs(recipe: Recipe, *axes: str) -> frozenset[str]:
    return frozenset().union(*(getattr(recipe.axes.get(axis), "needs", ()) for axis in axes))


def _make_ready(shape: PreTrainedModel, recipe: Recipe) -> None:
    """Freeze and adapt a model without weights as a run would."""
    from expunge.train.feed import freeze_unnamed

    selection = recipe.axes.get("selection")
    if hasattr(selection, "takes"):
        freeze_unnamed(shape, selection)
    if adapter := recipe.axes.get("adapter"):
        adapter.attach(shape, 0, lambda stream, weights: weights)


class _Costs:
    """Operations a token, from which matrices run, which train, and below which of them something trains."""

    def __init__(self, shape: PreTrainedModel):
        from expunge.models.hidden import find_blocks

        blocks = find_blocks(shape, 0)
        self.count = len(blocks.modules)
        self.weights = sum(parameter.numel() for parameter in shape.parameters())
        self.trained = sum(parameter.numel() for parameter in shape.parameters() if parameter.requires_grad)
        self._forward, self._step = [0] * self.count, [0] * self.count
        head = shape.get_output_embeddings().weight
        outside = [p for name, p in shape.named_parameters() if not name.startswith(blocks.path + ".")]
        below = any(p.requires_grad for p in outside if p.dim() > 1 and p is not head)
        below = below or (head.requires_grad and shape.get_input_embeddings().weight is head)
        self.lowest = 0 if below else self.count
        for i, block in enumerate(blocks.modules):
            norms_first = sorted(block.parameters(), key=lambda p: p.dim() > 1)
            for p in norms_first:
                size = p.numel() if p.dim() > 1 else 0
                self._forward[i] += 2 * size
                self._step[i] += 2 * size * (1 + below + p.requires_grad)
                below = below or p.requires_grad
            if below:
                self.lowest = min(self.lowest, i)
        self.head_forward = 2 * head.numel()
        self.head = self.head_forward * (1 + below + head.requires_grad)

    def blocks(self, first: int, last: int) -> int:
        """Forward and backward from one block to another, both included."""
        return sum(self._step[first : last + 1])

    def forward(self, last: int) -> int:
        """Forward up to a block."""
        return sum(self._forward[: last + 1])


def _speed(device: str | None) -> float:
    """Floating-point operations a second of a float32 matrix product here."""
    import torch

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    a, b = (torch.ones(1024, 1024, device=where) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        float((a @ b)[0, 0])
        best = min(best, time.perf_counter() - begin)
    return 2 * 1024**3 / best
