"""A guard's state on disk: nested JSON values, with every array in a safetensors file beside them. Nothing in it can run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from expunge.errors import ModelError

ARRAY = "__array__"


def write_state(folder: Path, state: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            name = str(len(arrays))
            arrays[name] = np.ascontiguousarray(value)
            return {ARRAY: name}
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        return value

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(state), ensure_ascii=False)
    if arrays:
        save_file(arrays, folder / "guard.safetensors")
    (folder / "guard.json").write_text(text, encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """Raises ModelError where the files are missing or broken: no part of a guard is ever made up."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if ARRAY in value:
                return arrays[value[ARRAY]]
            return {key: whole(part) for key, part in value.items()}
        if isinstance(value, list):
            return [whole(part) for part in value]
        return value

    try:
        path = folder / "guard.safetensors"
        arrays = load_file(path) if path.is_file() else {}
        return whole(json.loads((folder / "guard.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: the guard's files are missing or broken ({type(error).__name__}: {error}), so it stands in front of nothing.\n"
            "Restore them, or fit the guard again."
        ) from error
