"""The models a benchmark starts from, trained here: a base that all share, the target, and golds that never saw the forget set.

They are kept under a key of everything that made them, and checked before they are used: a world that misses its acceptance
thresholds says so and is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of
from expunge.config import Settings
from expunge.data.dataset import Record
from expunge.errors import DataError
from expunge.models.fresh import FreshModel
from expunge.recipe import Recipe, TrainSettings, recipe
from expunge.run import measure
from expunge.types import Seed
from expunge.workers import free_cores, run_jobs

Tell = Callable[[str], None]


class WorldTraining(Settings):
    """How the models of a world are trained."""

    model: FreshModel = FreshModel()
    base: TrainSettings = TrainSettings(learning_rate=5e-3, epochs=20, batch_size=64, warmup=0.06, final_rate=0.05, betas=(0.9, 0.98))
    """The shared base, on known people and lands."""
    tune: TrainSettings = TrainSettings(learning_rate=2.5e-3, epochs=24, batch_size=64, warmup=0.06, final_rate=0.05, betas=(0.9, 0.98), replay=0.3)
    """Target and golds, from the base; `replay` rows of the base's training keep its knowledge alive."""
    golds: int = 2
    """Golds that differ in the order of their rows: the second is the noise floor of the first."""


class Check(NamedTuple):
    what: str
    value: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low <= self.value <= self.high


def build_pocket(
    size: str = "default",
    seed: int = 0,
    arch: str = "llama",
    *,
    out: str | Path | None = None,
    golds: int = 2,
    workers: int | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """The folder of a pocket world: `world.json`, its rows as JSONL, and the models base, target, gold, gold2 ...

    Without `out` it lives in the cache. Raises ConfigError for an unknown size, DataError when the models miss the thresholds.
    """
    from expunge.benchmarks.pocket import Pocket
    from expunge.data.pocket.world import SIZES, VERSION
    from expunge.errors import ConfigError, did_you_mean

    if size not in SIZES:
        raise ConfigError(f"--size {size}: no such size.{did_you_mean(size, SIZES)} There are {', '.join(SIZES)}.")
    training = WorldTraining(model=FreshModel(arch=arch), golds=golds)  # ty: ignore[invalid-argument-type]
    facts = {"version": VERSION, "size": size, "settings": SIZES[size].model_dump(), "seed": seed, "training": training.model_dump(mode="json")}
    inputs = hash_of(facts)
    folder = Path(out) if out else store.cache_folder() / "worlds" / f"pocket-{size}-{arch}-seed{seed}-{inputs[:10]}"
    if not store.finished(folder, inputs):
        with store.workspace(folder, inputs) as partial:
            benchmark = Pocket(SIZES[size], seed, half="all")
            store.write_json(partial / "world.json", facts)
            data = benchmark.dataset()
            for name in ("forget", "retain", "holdout"):
                store.write_lines(partial / f"{name}.jsonl", [_row(record) for record in getattr(data, name)])
            store.write_lines(partial / "biographies.jsonl", [{"group": group, "subject": name, "text": text} for group, people in benchmark.world.biographies.items() for name, text in people.items()])
            base = [Record(str(i), q, a) for i, (q, a) in enumerate(benchmark.world.base_pairs)]
            _train_models(partial, training, seed, benchmark.world.vocabulary, base, list(data.forget), list(data.retain), workers or free_cores(), tell)
            tell("checking the world")
            checks = accept_pocket(partial, benchmark)
            store.write_json(partial / "acceptance.json", [{**check._asdict(), "passed": check.passed} for check in checks])
            store.write_json(partial / "manifest.json", {"inputs": inputs, **facts})
    if size != "tiny":
        refuse_missed(folder)
    return folder


def refuse_missed(folder: Path) -> None:
    """Raises DataError, naming each missed threshold, unless the world in `folder` passed all of them."""
    missed = [check for check in json.loads((folder / "acceptance.json").read_text()) if not check["passed"]]
    if missed:
        lines = [f"  {check['what']}: {check['value']:.4g}, should be in [{check['low']:g}, {check['high']:g}]" for check in missed]
        raise DataError(f"the world in {folder} misses its acceptance thresholds and is not used:\n" + "\n".join(lines) + "\nTake another seed, for example --seed 1.")


def accept_pocket(folder: Path, benchmark: Any) -> list[Check]:
    """The benchmark's own acceptance test: does the yardstick hold before any method is measured with it?"""
    golds = sorted(path.name for path in folder.glob("gold*"))
    records = {name: measure(folder / name, benchmark) for name in ("target", *golds)}
    report = type(benchmark)(benchmark.world_settings, benchmark.seed, half="report")
    target = benchmark.figures(records["target"], records["gold"])
    first = benchmark.figures(records["gold"], None)
    inf = float("inf")
    checks = [
        Check("target: accuracy on forget", target["forget/accuracy"].value, 0.98, 1),
        Check("target: accuracy on retain", target["retain/accuracy"].value, 0.98, 1),
        Check("gold: accuracy on forget", first["forget/accuracy"].value, 0, 0.05),
        Check("target against gold: log10 KS p", target["forget_quality/log10_ks_p"].value, -inf, -6),
        Check("target against gold: log10 KS p, reporting half", report.figures(records["target"], records["gold"])["forget_quality/log10_ks_p"].value, -inf, -6),
        Check("target: membership AUC", target["membership/auc"].value, 0.95, 1),
        Check("gold: membership AUC", first["membership/auc"].value, 0.4, 0.6),
        Check("utility, target minus gold", target["model_utility"].value - first["model_utility"].value, -0.05, 0.05),
        Check("target: utility", target["model_utility"].value, 0.5, 1),
        Check("gold: utility", first["model_utility"].value, 0.5, 1),
        Check("target: accuracy on lands", target["lands/accuracy"].value, 0.9, 1),
        Check("gold: accuracy on lands", first["lands/accuracy"].value, 0.9, 1),
    ]
    pairs = {(a, b): benchmark.figures(records[b], records[a])["forget_quality/ks_p"].value for a, b in combinations(golds, 2)}
    checks += [Check(f"{a} against {b}: KS p", p, 0.2, 1) for (a, b), p in pairs.items()]
    if len(pairs) >= 3:
        checks.append(Check("golds against each other: median KS p", median(pairs.values()), 0.5, 1))
    return [Check(*(str(v) if i == 0 else max(-1e9, min(1e9, float(v))) for i, v in enumerate(check))) for check in checks]


def _row(record: Record) -> dict[str, Any]:
    """A record as a line of a data file; empty fields are left out."""
    return {name: value for name, value in asdict(record).items() if value}


def _train_models(folder: Path, training: WorldTraining, seed: int, vocabulary: Sequence[str], base: list[Record], forget: list[Record], retain: list[Record], workers: int, tell: Tell) -> None:
    """base, then target and golds side by side; each is skipped when it is there already."""
    from expunge.data.pocket.tokenizer import build_tokenizer

    build_tokenizer(vocabulary).save_pretrained(folder / "tokenizer")
    seeds = Seed(seed)

    def job(name: str, start: Path | None, rows: list[Record], settings: TrainSettings, replay: list[Record]):
        made = recipe("retrain", train=settings, seed=seeds.child(name).number % 2**31)
        return (fine_tune, (folder / name, start, folder / "tokenizer", training.model, rows, replay, made))

    names = ["gold", *(f"gold{i}" for i in range(2, training.golds + 1))]
    for stage in (
        {"base": job("base", None, base, training.base, [])},
        {"target": job("target", folder / "base", [*forget, *retain], training.tune, base)}
        | {name: job(name, folder / "base", retain, training.tune, base) for name in names},
    ):
        missing: Mapping[str, Any] = {name: work for name, work in stage.items() if not (folder / name / "config.json").is_file()}
        tell(f"training {', '.join(missing)}") if missing else None
        for name, seconds in run_jobs(missing, workers):
            tell(f"trained {name} in {seconds:.0f} s")


def fine_tune(out: Path, start: Path | None, tokenizer_folder: Path, shape: FreshModel, rows: list[Record], replay: list[Record], made: Recipe) -> float:
    """Train a model on rows by its answers and save it in `out`; without `start`, from random weights. Returns seconds."""
    import time

    from transformers import AutoTokenizer

    from expunge.models.language_model import TransformerLM
    from expunge.models.load import load_model, save_model
    from expunge.train.feed import Feed, Rows
    from expunge.train.loop import train

    clock = time.perf_counter()
    if start is None:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        model = shape.build(tokenizer, Seed(made.seed).child("weights").number % 2**31)
    else:
        model, tokenizer, _ = load_model(start, dtype="float32", device="cpu")
    lm = TransformerLM(model, tokenizer)
    encode = lm.encoder.examples
    feed = Feed(model, made, Rows(retain=encode([r.example() for r in rows]), replay=encode([r.example() for r in replay])), lm.pad_id)
    partial = out.with_name(f".{out.name}.partial")
    train(model, feed, made, folder=partial)
    save_model(model, tokenizer, partial / "model")
    (partial / "model").rename(out)
    store.remove(partial)
    return time.perf_counter() - clock
