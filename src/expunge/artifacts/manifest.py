"""The manifest of an artifact: what was asked, what was made from what, and what may be claimed."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from expunge.errors import ModelError
from expunge.types import CLAIMS

SCHEMA = 1
KINDS = ("weights", "adapter", "guard")


def new_manifest(
    *,
    kind: str,
    claim: str,
    recipe: dict[str, Any],
    inputs: str,
    base: dict[str, str],
    data: dict[str, Any],
    timings: dict[str, float],
    **more: Any,
) -> dict[str, Any]:
    """All that a reader needs to judge or repeat the run. Times are seconds, memory is MiB."""
    return {
        "schema": SCHEMA,
        "kind": kind,
        "claim": claim,
        "claim_means": CLAIMS[claim],
        "method": recipe["method"],
        "recipe": recipe,
        "seed": recipe["seed"],
        "base": base,
        "data": data,
        "inputs": inputs,
        "code": code_hash(),
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {name: round(seconds, 3) for name, seconds in timings.items()},
        "peak_memory_mib": round(peak_memory_mib()),
        **more,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ModelError when the folder is not an artifact that this version can read."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise ModelError(
            f"{folder}: no manifest.json, so this is not a finished run. Runs are made by `expunge unlearn ... --out {folder}`."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{path}, line {error.lineno}: not valid JSON: {error.msg}. Make the run again."
        ) from None
    if manifest.get("schema") != SCHEMA or manifest.get("kind") not in KINDS:
        raise ModelError(
            f"{path}: schema {manifest.get('schema')} and kind '{manifest.get('kind')}'; this version reads schema {SCHEMA}."
        )
    return manifest


def hash_of(content: Any) -> str:
    """SHA-256 of plain values, as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def hash_files(
    folder: Path, patterns: tuple[str, ...] = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
) -> str:
    """SHA-256 over names and contents of the files that define a model (or an artifact), subfolders included."""
    digest = hashlib.sha256()
    files = {path for pattern in patterns for path in folder.rglob(pattern)}
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        facts = path.stat()
        digest.update(
            path.relative_to(folder).as_posix().encode()
            + b"\0"
            + _file_digest(path, facts.st_size, facts.st_mtime_ns)
        )
    return digest.hexdigest()


@cache
def _file_digest(path: Path, size: int, modified: int) -> bytes:
    """SHA-256 of a file; one that has not changed since is not read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@cache
def code_hash() -> str:
    """SHA-256 of this package's own source."""
    return hash_files(Path(__file__).parents[1], ("*.py",))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for name in ("expunge", "torch", "transformers", "peft", "numpy", "scipy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def peak_memory_mib() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
