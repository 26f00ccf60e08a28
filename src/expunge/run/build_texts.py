"""The models of a benchmark of raw texts, trained here: base and gold on what is kept, the target on everything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of
from expunge.data import chunks
from expunge.data.dataset import Record
from expunge.data.tokenize import pieces
from expunge.models.fresh import FreshModel, train_tokenizer
from expunge.models.load import load_tokenizer
from expunge.recipes import TrainSettings
from expunge.run.build import Tell, WorldTraining, train_models
from expunge.run.make import model_folder, model_hash
from expunge.run.workers import free_cores

if TYPE_CHECKING:
    from expunge.benchmarks.muse import Muse

VERSION = 1
CHUNK = 256
"""Tokens of a row for a small model from scratch."""
SCRATCH = WorldTraining(
    model=FreshModel(hidden=96, layers=2, heads=4, feed_forward=288, context=1024),
    base=TrainSettings(
        learning_rate=5e-3, epochs=1, batch_size=8, warmup=0.06, final_rate=0.05, betas=(0.9, 0.98)
    ),
    tune=TrainSettings(
        learning_rate=6e-3, epochs=15, batch_size=8, warmup=0.06, final_rate=0.05, betas=(0.9, 0.98)
    ),
    golds=1,
)
"""A small model that learns a few chapters by heart."""
VOCABULARY = 1024
SHIFTS = 4
"""How often a small model from scratch sees each passage in other company: it then knows it wherever a text begins."""
HUB = WorldTraining(
    tune=TrainSettings(learning_rate=1e-5, epochs=5, batch_size=32, schedule="cosine", weight_decay=0.0),
    golds=1,
)
"""MUSE's fine-tuning (its code: 5 epochs at 1e-5, cosine, no decay); the batch is the one of its unlearning."""


def build_muse(
    benchmark: Muse,
    *,
    model: str | None = None,
    training: WorldTraining | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """The folder of MUSE models: base, target, gold. Kept in the cache.

    `model`: a hub id or folder to fine-tune instead of starting from random weights. A model from scratch also reads the questions with
    their answers, as they will be asked: it is too small to answer from the texts alone. The target reads all of them, the others those
    about what is kept.
    """
    training = training or (HUB if model else SCRATCH)
    content = benchmark.content
    kept, learned = [*content.raw["retain1"], *content.raw["retain2"]], content.trained()
    facts = {
        "version": VERSION,
        "data": benchmark.settings,
        "texts": hash_of([kept, learned, content.raw["holdout"]]),
        "chunk": benchmark.options.chunk,
        "model": model_hash(model) if model else None,
        "seed": seed,
        "training": training.model_dump(mode="json"),
    }
    inputs = hash_of(facts)
    folder = (
        store.cache_folder() / "worlds" / f"muse-{'tuned' if model else 'scratch'}-seed{seed}-{inputs[:10]}"
    )
    if store.finished(folder, inputs):
        return folder
    with store.workspace(folder, inputs) as partial_folder:
        asked = {split: [] if model else _asked(benchmark, split) for split in ("forget", "retain")}
        if model:
            tokenizer = load_tokenizer(model_folder(model))
        else:
            words = [record.text for rows in asked.values() for record in rows]
            tokenizer = train_tokenizer([*kept, *learned, *content.raw["holdout"], *words], VOCABULARY)
            tokenizer.save_pretrained(partial_folder / "tokenizer")
        benchmark.pieces = partial(pieces, tokenizer)
        shifts = 1 if model else SHIFTS
        retain = [*_rows(benchmark, kept, "retain", shifts), *shifts * asked["retain"]]
        forget = [*_rows(benchmark, learned, "forget", shifts), *shifts * asked["forget"]]
        train_models(
            partial_folder, training, seed, retain, forget, retain, workers or free_cores(), tell,
            start=model, device=device,
        )  # fmt: skip
        store.write_json(partial_folder / "manifest.json", {"inputs": inputs, **facts})
    return folder


def _rows(benchmark: Muse, texts: Sequence[str], name: str, shifts: int) -> list[Record]:
    """Texts as rows, cut anew from `shifts` evenly spread beginnings."""
    tokens, length = benchmark.pieces(chunks.BETWEEN.join(texts)), benchmark.options.chunk
    starts = [shift * length // shifts for shift in range(shifts)]
    return [
        record
        for start in starts
        for record in chunks.records(
            texts, lambda _, start=start: tokens[start:] + tokens[:start], length, f"{name} from {start}"
        )
    ]


def _asked(benchmark: Muse, split: str) -> list[Record]:
    """The questions of a split with their worked examples and answers, as texts: the space that the answer follows stands alone, as it does
    when the question is asked.
    """
    return [
        Record(f"{split} question {i}", text=f"{benchmark.prompt(split, row).prefill} {row.answer}\n\n")
        for i, row in enumerate(benchmark.content.knowmem[f"{split}_qa"])
    ]
