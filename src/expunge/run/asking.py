"""Replies of models, kept between runs under what was asked and of which weights: the same question is never put twice.

One SQLite file a model, named by the hash of its files and its template, never by its folder. A batch is written whole or not at
all, so an interruption loses at most one; several processes may write at once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_files, hash_of
from expunge.benchmarks._asks import Asks, Key, Replies, ask
from expunge.errors import CapabilityError
from expunge.run.make import Progress, is_address, load, model_hash, silent
from expunge.types import Example, Generation, GenerationParams, LanguageModel, Prompt, Score

VERSION = 3
"""Raised whenever the same model gives other replies to the same questions."""


class ReplyStore:
    """`benchmarks._asks.Store` on disk."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as db, db:
            db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=60)
        db.execute("PRAGMA journal_mode=WAL")
        return db

    def get(self, keys: Sequence[Key]) -> dict[Key, Any]:
        digests = {_digest(key): key for key in keys}
        found: dict[Key, Any] = {}
        with closing(self._open()) as db:
            for digest, key in digests.items():
                row = db.execute("SELECT reply FROM replies WHERE key = ?", (digest,)).fetchone()
                if row:
                    found[key] = _read(key[0], json.loads(row[0]))
        return found

    def put(self, replies: dict[Key, Any]) -> None:
        rows = [(_digest(key), json.dumps(_plain(reply))) for key, reply in replies.items()]
        with closing(self._open()) as db, db:
            db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", rows)


def _digest(key: Key) -> str:
    kind, prompt, rest = key
    asked = asdict(prompt) if prompt else None
    if asked and asked["images"]:
        asked["images"] = [store.file_hash(Path(image)) for image in asked["images"]]
    return hash_of([kind, asked, asdict(rest) if isinstance(rest, GenerationParams) else rest])


def _plain(reply: Any) -> Any:
    if isinstance(reply, Score):
        return {
            "logp": [float(x) for x in reply.token_logprobs],
            "hits": [int(x) for x in reply.hits],
            "z": None if reply.z is None else [float(x) for x in reply.z],
            "ranks": None if reply.ranks is None else [int(x) for x in reply.ranks],
            "floored": bool(reply.floored),
        }
    return [asdict(generation) for generation in reply] if isinstance(reply, list) else float(reply)


def _read(kind: str, held: Any) -> Any:
    if kind == "score":
        return Score(
            np.array(held["logp"], dtype=np.float32),
            np.array(held["hits"], dtype=bool),
            held["floored"],
            None if held["z"] is None else np.array(held["z"], dtype=np.float32),
            None if held["ranks"] is None else np.array(held["ranks"], dtype=np.int64),
        )
    return [Generation(**generation) for generation in held] if kind == "answer" else held


def replies_of(
    name: str | Path,
    asks: Asks,
    *,
    template: str = "auto",
    device: str | None = None,
    open_model: Callable[..., LanguageModel] = load,
    progress: Progress = silent,
) -> Replies:
    """What a model or run replies. It is only loaded when something has not been asked before.

    Nothing is kept of what an endpoint has a part in: behind its address another model may stand tomorrow.
    """
    identity = _identity(name, template, device)
    held = ReplyStore(store.cache_folder() / "replies" / f"{hash_of(identity)}.sqlite") if identity else None
    return ask(partial(open_model, name, template=template, device=device), asks, held, progress)


def _identity(name: str | Path, template: str, device: str | None) -> list[Any] | None:
    """All that makes a model's replies what they are, or None where an endpoint has a part in them."""
    import torch

    outside: list[str] = []
    manifest = Path(name) / "manifest.json"
    if manifest.is_file():
        facts = store.read_json(manifest)
        template = facts["template"] if template == "auto" else template
        axes = [part for part in facts["recipe"].values() if isinstance(part, dict)]
        outside = [facts["base"]["name"], *_strings(axes)]
    if any(map(is_address, (name, *outside))):
        return None
    kind = device.split(":")[0] if device else "cuda" if torch.cuda.is_available() else "cpu"
    folders = [hash_files(Path(text)) for text in outside[1:] if (Path(text) / "config.json").is_file()]
    return [VERSION, model_hash(name), template, kind, *folders]


def _strings(value: Any) -> list[str]:
    """Every text in nested plain values: a recipe may name models of its own."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in _strings(part)]


class Judge:
    """A model by name as the judge of what another one wrote: its scores are kept as well."""

    capabilities: frozenset[str] = frozenset()

    def __init__(self, name: str | Path, *, template: str = "auto", device: str | None = None):
        self._replies = partial(replies_of, name, template=template, device=device)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        """Raises CapabilityError where the judge gives no likelihoods."""
        replies = self._replies(Asks(scores=list(examples)))
        found = [replies.score(example) for example in examples]
        if None in found:
            raise CapabilityError(f"the judge gives no likelihoods: {replies.why['score']}")
        return [score for score in found if score is not None]

    def generate(self, prompts: Sequence[Prompt], params: GenerationParams) -> list[list[Generation]]:
        replies = self._replies(Asks(answers=[(prompt, params) for prompt in prompts]))
        return [replies.answer(prompt, params) or [] for prompt in prompts]
