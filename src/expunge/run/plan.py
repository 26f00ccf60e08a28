"""What a run will take, from counts, before anything runs: passes, tokens, floating-point operations, memory.

A forward costs 2 operations a weight and token, a backward twice that. The time is what the device needs for so many operations at
the speed of one measured matrix product: near for wide models, far below the truth for tiny ones. Every block is counted as run and
trained, so methods that stop early (`rmu`) or train little (`layers`, adapters) take less.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ConfigError, ModelError
from expunge.recipes import Recipe
from expunge.run.make import refuse_missing_data

if TYPE_CHECKING:
    from expunge.data.dataset import Dataset

ACTIVATIONS = 16
"""Numbers kept a token, layer and hidden unit for the backward pass, roughly."""


def plan(
    model: str | Path, data: Dataset, recipe: Recipe, *, template: str = "auto", device: str | None = None
) -> dict[str, Any]:
    """Steps, tokens, operations, seconds and memory (MiB) of `unlearn` with a training recipe.

    Weights are not loaded. Raises ConfigError for a guard, which trains nothing, DataError for rows that are missing, ModelError for a
    model that is not there.
    """
    if recipe.kind == "guard":
        raise ConfigError(f"'{recipe.method}' is a guard: it trains nothing, so there are no steps to plan.")
    refuse_missing_data(recipe, data)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from expunge.data.refusals import alternates_of
    from expunge.data.tokenize import Encoder
    from expunge.models.load import check_folder, is_folder_name
    from expunge.train.feed import steps_of

    if is_folder_name(model):
        check_folder(Path(model))
    try:
        config: Any = AutoConfig.from_pretrained(model)
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"'{model}' is no model folder here, and the hub does not know it or cannot be reached.\nCheck the name, or give a folder."
        ) from error
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(config)
    weights = {name: parameter.numel() for name, parameter in shape.named_parameters()}
    total = sum(weights.values())
    trained = _trained(recipe, weights)
    encode = Encoder(tokenizer, config.get_text_config().max_position_embeddings, template).examples
    settings, needs = recipe.train, recipe.needs
    forget = [record.example() for record in data.forget if record.shape != "subject"]
    rows = {
        "forget": encode(forget) if recipe.axes["procedure"].forgets else [],
        "retain": encode([record.example() for record in data.retain]) if "retain" in recipe.axes else [],
    }
    if "alternate" in needs:
        rows["alternate"] = [others[0] for others in map(encode, alternates_of(forget))]
    steps = steps_of(
        recipe, [len(row.ids) for row in rows["forget"]], [len(row.ids) for row in rows["retain"]]
    )
    objective = getattr(recipe.axes.get("objective"), "needs", frozenset())
    streams = [name for name in ("forget", "alternate") if name in objective]
    drawn = [("retain", i) for step in steps for i in step.retain]
    drawn += [(name, i) for step in steps for name in streams for i in step.forget]
    tokens = sum(len(rows[name][i].ids) for name, i in drawn)
    answers = sum(len(rows[name][i].ids) - rows[name][i].start for name, i in drawn)
    cached = {(name, i) for name, i in drawn if _references(name, recipe)}
    reference_tokens = sum(len(rows[name][i].ids) for name, i in cached)
    text = config.get_text_config()
    head = text.vocab_size * text.hidden_size
    body = total - (head if text.tie_word_embeddings else 2 * head)  # looking up an embedding costs nothing
    flops = 6 * (body * tokens + head * answers) + 2 * body * reference_tokens
    largest = settings.micro_batch or settings.batch_size
    at_once = tokens / max(1, len(steps)) * min(1.0, largest / settings.batch_size)
    mib = {
        "weights": 4 * total,
        "gradients": 4 * trained * (2 if getattr(recipe.axes["gradient"], "separate", False) else 1),
        "optimiser": 8 * trained,
        "activations": ACTIVATIONS * 4 * at_once * text.num_hidden_layers * text.hidden_size
        + 3 * 4 * at_once * answers / max(1, tokens) * text.vocab_size,
    }
    speed = _speed(device)
    return {
        "method": recipe.method,
        "parameters": total,
        "trained": trained,
        "steps": len(steps),
        "tokens": tokens,
        "reference_tokens": reference_tokens,
        "operations": flops,
        "operations_per_second": speed,
        "seconds": flops / speed,
        "mib": {name: round(size / 2**20, 1) for name, size in mib.items()},
    }


def _references(stream: str, recipe: Recipe) -> bool:
    """Whether the starting model is asked about the rows of a stream before training."""
    parts = ("retain",) if stream == "retain" else ("objective", "weighting")
    needs = frozenset().union(*(recipe.axes[axis].needs for axis in parts if axis in recipe.axes))
    return any(need.startswith("ref_") for need in needs)


def _trained(recipe: Recipe, weights: dict[str, int]) -> int:
    """Weights that get a gradient and two moments."""
    if "adapter" in recipe.axes:
        return 0  # an adapter's own weights are few beside the model's
    selection = recipe.axes.get("selection")
    if selection is not None and hasattr(selection, "takes"):
        return sum(size for name, size in weights.items() if selection.takes(name))
    return sum(weights.values())


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
