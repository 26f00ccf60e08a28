"""A forget corpus that a model writes about given names, name by name, so that an interruption loses one name's rows at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of
from expunge.data.self_corpus import KINDS, Kind, corpus_of
from expunge.errors import ConfigError, DataError, StorageError, did_you_mean
from expunge.run.make import Progress, load, model_hash, silent

if TYPE_CHECKING:
    from expunge.data.dataset import Record


def write_corpus(
    model: str | Path,
    forget: Sequence[Record],
    kind: str,
    out: Path,
    *,
    count: int,
    tokens: int = 512,
    refusals: Sequence[str] = (),
    seed: int = 0,
    template: str = "auto",
    device: str | None = None,
    progress: Progress = silent,
) -> int:
    """Write `out`, whole or not at all, and return how many rows it has. `tokens`: most tokens of a text, at most half of what the model
    reads. The same command goes on where it was cut short. Raises ConfigError, DataError, ModelError, or StorageError where `out` is taken.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"--kind {kind}: no such kind.{did_you_mean(kind, KINDS)} There are {', '.join(KINDS)}."
        )
    chosen: Kind = kind  # ty: ignore[invalid-assignment]  # just checked
    names = list(dict.fromkeys(record.subject for record in forget if record.subject))
    if not names:
        raise DataError("no forget row has a name. A row needs 'subject', such as a person's name.")
    if out.exists():
        raise StorageError(f"--out {out}: is there already. Choose another file, or remove this one.")
    inputs = hash_of([model_hash(model), names, kind, count, tokens, list(refusals), seed, template])
    partial = out.with_name(f".{out.name}.partial")
    done = _read_partial(partial, inputs)
    lm: Any = None
    for place, name in enumerate(names):
        if name not in done:
            lm = lm or load(model, template=template, device=device)
            done[name] = corpus_of(
                lm, name, chosen, count, tokens=min(tokens, _room(lm, tokens)), refusals=refusals, seed=seed
            )
            store.write_lines(partial, [{"inputs": inputs}, *done.items()])
        progress("names", place + 1, len(names))
    rows = [row for name in names for row in done[name]]
    store.write_lines(out, rows)
    partial.unlink(missing_ok=True)
    return len(rows)


def _room(lm: Any, tokens: int) -> int:
    """Half of what the model, or the one behind a guard, reads; `tokens` where that is unknown."""
    encoder = getattr(lm, "encoder", None) or getattr(getattr(lm, "model", None), "encoder", None)
    return encoder.max_tokens // 2 if encoder else tokens


def _read_partial(path: Path, inputs: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by name of an earlier try with the same inputs."""
    if not path.is_file():
        return {}
    first, *lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    return dict(map(json.loads, lines)) if json.loads(first) == {"inputs": inputs} else {}
