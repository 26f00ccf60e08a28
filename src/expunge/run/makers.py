"""What `unlearn` runs for each kind of recipe: a loop of one or several stages, an edit, or the fitting of a guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.artifacts import store
from expunge.errors import ModelError
from expunge.recipes import Recipe
from expunge.run.stages import Stages
from expunge.types import LanguageModel

if TYPE_CHECKING:
    from expunge.data.dataset import Dataset, Record
    from expunge.models.language_model import TransformerLM
    from expunge.run.make import Progress


@dataclass
class Order:
    """What was asked for, and where it is built."""

    start: str | Path
    data: Dataset
    recipe: Recipe
    folder: Path
    template: str
    device: str | None
    refusals: Sequence[str]
    writer: str
    replay: Sequence[Record]
    probe: Callable[[LanguageModel, int], dict[str, Any]] | None
    selection: Sequence[Record] | None
    progress: Progress


def train_weights(order: Order) -> dict[str, Any]:
    """Run the recipe's stages and write `model` or `adapter` and the trace. Returns what the manifest says of it."""
    import torch

    from expunge.models.load import save_model

    recipe, folder = order.recipe, order.folder
    torch.use_deterministic_algorithms(True, warn_only=order.device not in (None, "cpu"))
    lm = _trainable(order)
    procedure = recipe.axes["procedure"]
    if blocks := getattr(procedure, "blocks", None):
        from expunge.models.hidden import keep_blocks

        keep_blocks(lm.model, blocks)
    run = Stages(order, lm)
    run.finish()
    adapter = recipe.axes.get("adapter")
    kind = adapter.artifact if adapter and not blocks else "weights"
    if kind == "adapter":
        run.adapted.save_pretrained(str(folder / "adapter"))
    else:
        save_model(run.adapted.merge_and_unload() if adapter else lm.model, lm.reader, folder / "model")
    store.write_lines(folder / "trace.jsonl", run.trace)
    store.remove(folder / "stages")
    last = run.outcomes[-1]
    return {
        "kind": kind,
        "template": lm.encoder.template,
        "timings": run.timings,
        "steps": sum(outcome["steps"] for outcome in run.outcomes),
        "reference_cache_mib": round(run.reference_bytes / 2**20, 3),
        **{name: last[name] for name in ("chosen_step", "level_reached", "trained_share")},
        **({"stages": run.outcomes} if run.staged else {}),
        **({"procedure": run.memory} if run.memory else {}),
        **_data_facts(order),
    }


def _data_facts(order: Order) -> dict[str, Any]:
    """What the data construction has to say of the rows that it made."""
    made = order.recipe.axes["data"]
    return {"shown": made.facts(order.data.forget, order.data.retain)} if hasattr(made, "facts") else {}


def edit_weights(order: Order) -> dict[str, Any]:
    """Apply the recipe's closed form and write `model`. Returns what the manifest says of it."""
    from expunge.models.load import save_model
    from expunge.train.workbench import Workbench

    lm = _trainable(order)
    data, found = _named(order)
    order.progress("editing", 0, 1)
    begin = time.perf_counter()
    facts = order.recipe.axes["edit"].apply(Workbench(lm, data, order.recipe))
    seconds = time.perf_counter() - begin
    save_model(lm.model, lm.reader, order.folder / "model")
    order.progress("editing", 1, 1)
    return {
        "kind": "weights",
        "template": lm.encoder.template,
        "names_found_in_text": list(found),
        "timings": {"edit": seconds},
        "edit": facts,
    }


def fit_guard(order: Order) -> dict[str, Any]:
    """Fit detector and action and write `guard`. Returns what the manifest says of it."""
    from expunge.guards.guard import FitData, Guard, Place
    from expunge.run.make import load

    lm: Any = load(order.start, device=order.device, template=order.template)
    data, found = _named(order)
    order.progress("fitting the guard", 0, 1)
    place = order.folder / "guard"
    guard = Guard.fit(
        lm,
        FitData(
            forget=data.forget,
            retain=data.retain,
            names=data.subjects,
            selection=data.forget if order.selection is None else order.selection,
            seed=order.recipe.seed,
            place=Place(place, partial(load, device=order.device)),
            make=partial(_make_part, order, data),
        ),
        order.recipe,
    )
    guard.save(place)
    order.progress("fitting the guard", 1, 1)
    acts = guard.action.state()
    shown = {
        "calibration": guard.detection.calibration.describe(),
        "strength": acts.get("strength"),
        "curve": acts.get("curve"),
        "disturbance": acts.get("disturbance"),
    }
    return {
        "kind": "guard",
        "template": lm.encoder.template if hasattr(lm, "encoder") else order.template,
        "names_found_in_text": list(found),
        "guard": shown,
    }


def _make_part(
    order: Order,
    data: Dataset,
    part: str,
    method: str,
    forget: Sequence[Record] | None = None,
    retain: Sequence[Record] | None = None,
    **settings: Any,
) -> Path:
    """What `FitData.make` does: a run within the guard's folder."""
    from expunge.data.dataset import Dataset
    from expunge.recipes import recipe
    from expunge.run.make import unlearn

    rows = Dataset(
        tuple(data.forget if forget is None else forget), tuple(data.retain if retain is None else retain)
    )
    made = recipe(method, **{"train": order.recipe.train, "seed": order.recipe.seed, **settings})
    return unlearn(
        order.start,
        rows,
        made,
        order.folder / "guard" / part,
        refusals=order.refusals,
        writer=order.writer,
        template=order.template,
        device=order.device,
        progress=order.progress,
    )


def _named(order: Order) -> tuple[Dataset, tuple[str, ...]]:
    """The data, with rows for the names found in its text where the recipe needs names and nobody gave any; and those names."""
    from expunge.data.subjects import find_names

    data = order.data
    if data.subjects or "subject" not in order.recipe.needs:
        return data, ()
    found = find_names(data.forget, data.retain)
    rows = (type(data.forget[0])(f"found-{i}", subject=name) for i, name in enumerate(found))
    return replace(data, forget=(*data.forget, *rows)), found


def _trainable(order: Order) -> TransformerLM:
    """The model to start from in float32: a folder, a hub id, or what an earlier run made of one. Raises ModelError."""
    from expunge.artifacts.manifest import read_manifest
    from expunge.models.image_text import open_model
    from expunge.models.load import refuse_quantised

    start, template = order.start, order.template
    if (Path(start) / "manifest.json").is_file() and (kind := read_manifest(Path(start)).get("kind")):
        manifest = read_manifest(Path(start))
        if kind != "weights":
            raise ModelError(
                f"{start}: a run that holds {'a guard' if kind == 'guard' else 'an adapter'}, not a whole model, so there are no weights of its own to change.\n"
                f"Start from the model that it was made for: {manifest['base']['name']}"
            )
        template = manifest["template"] if template == "auto" else template
        start = Path(start) / "model"
    refuse_quantised(start)
    return open_model(start, template, dtype="float32", device=order.device)
