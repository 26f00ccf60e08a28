"""Checkpoints that a killed run resumes from, bit for bit: safetensors and JSON, written beside and renamed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass
class State:
    """All that changes while the loop runs."""

    step: int = 0
    """Optimiser steps done."""
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Groups by name: "weights", "optimiser", "memory" (of the gradient rule and the retain term), "masks" (what was selected), "chosen" (the selected weights, if any)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Everything else, as JSON: the trace so far, the chosen step."""


def save(folder: Path, state: State) -> None:
    """Replace the checkpoint in `folder` by this one. A kill at any moment leaves the old or the new one whole."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name, group in state.tensors.items():
        save_file(
            {key: value.detach().contiguous() for key, value in group.items()}, new / f"{name}.safetensors"
        )
    (new / "state.json").write_text(
        json.dumps({"step": state.step, "groups": list(state.tensors), "facts": state.facts})
    )
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> State | None:
    """The last whole checkpoint, or None."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames
        old.rename(folder)
    if not (folder / "state.json").is_file():
        return None
    meta = json.loads((folder / "state.json").read_text())
    return State(
        meta["step"],
        {name: load_file(folder / f"{name}.safetensors") for name in meta["groups"]},
        meta["facts"],
    )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, flat: "<parameter index>.<quantity>"."""
    return {
        f"{index}.{name}": value
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
