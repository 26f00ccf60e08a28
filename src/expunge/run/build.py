"""The models a benchmark starts from, trained here: a base that all share, the target, and golds that never saw the forget set.

They are kept under a key of everything that made them, and checked before they are used: a world that misses its acceptance
thresholds says so and is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of
from expunge.config import Settings
from expunge.data.dataset import Record
from expunge.errors import ConfigError, DataError, did_you_mean
from expunge.models.fresh import FreshModel, train_tokenizer
from expunge.recipes import Recipe, TrainSettings, recipe
from expunge.run import measure, model_hash
from expunge.run.workers import free_cores, run_jobs
from expunge.types import Seed

if TYPE_CHECKING:
    from expunge.benchmarks.pocket import Pocket
    from expunge.benchmarks.tofu import Tofu

Tell = Callable[[str], None]


class WorldTraining(Settings):
    """How the models of a world are trained."""

    model: FreshModel = FreshModel()
    """The shape of the base, where it starts from random weights."""
    base: TrainSettings = TrainSettings(
        learning_rate=5e-3, epochs=20, batch_size=64, warmup=0.06, final_rate=0.05, betas=(0.9, 0.98)
    )
    """The base that target and golds share."""
    tune: TrainSettings = TrainSettings(
        learning_rate=2.5e-3,
        epochs=24,
        batch_size=64,
        warmup=0.06,
        final_rate=0.05,
        betas=(0.9, 0.98),
        replay=0.3,
    )
    """Target and golds, from the base; `replay` rows of the base's training keep its knowledge alive."""
    golds: int = 2
    """Golds that differ in the order of their rows: the second is the noise floor of the first."""


WIDTHS = {"large": 160}
"""Hidden size by size of the world, where it is not 64: five times as many facts need more room."""


class Check(NamedTuple):
    what: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def passed(self) -> bool:
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    def describe(self) -> dict[str, Any]:
        bounds = {"at least": self.low, "at most": self.high}
        wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        return {"what": self.what, "value": self.value, "wanted": wanted, "passed": self.passed}


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
    from expunge.data.pocket.tokenizer import build_tokenizer
    from expunge.data.pocket.world import SIZES, VERSION

    if size not in SIZES:
        raise ConfigError(
            f"--size {size}: no such size.{did_you_mean(size, SIZES)} There are {', '.join(SIZES)}."
        )
    hidden = WIDTHS.get(size, 64)
    shape = FreshModel.parse({"arch": arch, "hidden": hidden, "feed_forward": 3 * hidden}, "bench --arch")
    training = WorldTraining(model=shape, golds=golds)
    facts = {
        "version": VERSION,
        "size": size,
        "settings": SIZES[size].model_dump(),
        "seed": seed,
        "training": training.model_dump(mode="json"),
    }
    inputs = hash_of(facts)
    folder = (
        Path(out)
        if out
        else store.cache_folder() / "worlds" / f"pocket-{size}-{arch}-seed{seed}-{inputs[:10]}"
    )
    if not store.finished(folder, inputs):
        with store.workspace(folder, inputs) as partial:
            benchmark = Pocket(SIZES[size], seed, half="all")
            store.write_json(partial / "world.json", facts)
            data = benchmark.dataset()
            for name in ("forget", "retain", "holdout"):
                store.write_lines(partial / f"{name}.jsonl", [_row(record) for record in getattr(data, name)])
            store.write_lines(
                partial / "biographies.jsonl",
                [
                    {"group": group, "subject": name, "text": text}
                    for group, people in benchmark.world.biographies.items()
                    for name, text in people.items()
                ],
            )
            build_tokenizer(benchmark.world.vocabulary).save_pretrained(partial / "tokenizer")
            base = [Record(str(i), q, a) for i, (q, a) in enumerate(benchmark.world.base_pairs)]
            train_models(
                partial,
                training,
                seed,
                base,
                list(data.forget),
                list(data.retain),
                workers or free_cores(),
                tell,
            )
            tell("checking the world")
            checks = accept_pocket(partial, benchmark)
            store.write_json(partial / "acceptance.json", [check.describe() for check in checks])
            store.write_json(partial / "manifest.json", {"inputs": inputs, **facts})
    if size != "tiny":
        refuse_missed(folder)
    return folder


def refuse_missed(folder: Path) -> None:
    """Raises DataError, naming each missed threshold, unless the world in `folder` passed all of them."""
    missed = [check for check in json.loads((folder / "acceptance.json").read_text()) if not check["passed"]]
    if missed:
        lines = [f"  {check['what']}: {check['value']:.4g}, should be {check['wanted']}" for check in missed]
        raise DataError(
            f"the world in {folder} misses its acceptance thresholds and is not used:\n"
            + "\n".join(lines)
            + "\nTake another seed, for example --seed 1."
        )


def accept_pocket(folder: Path, benchmark: Pocket) -> list[Check]:
    """The benchmark's own acceptance test: does the yardstick hold before any method is measured with it?"""
    golds = sorted(path.name for path in folder.glob("gold*"))
    records = {name: measure(folder / name, benchmark) for name in ("target", *golds)}
    target = benchmark.figures(records["target"], records["gold"])
    first = benchmark.figures(records["gold"], None)
    apart = [
        table.figures(records["target"], records["gold"])["forget_quality/ks_p"].number
        for table in (benchmark, benchmark.of_half("report"))
    ]
    checks = [
        Check("target: accuracy on forget", target["forget/accuracy"].number, low=0.98),
        Check("target: accuracy on retain", target["retain/accuracy"].number, low=0.98),
        Check("gold: accuracy on forget", first["forget/accuracy"].number, high=0.05),
        Check("target against gold: KS p", apart[0], high=1e-6),
        Check("target against gold: KS p, reporting half", apart[1], high=1e-6),
        Check("target: membership AUC", target["membership/auc"].number, low=0.95),
        Check("gold: membership AUC", first["membership/auc"].number, 0.4, 0.6),
        Check(
            "utility, target minus gold",
            target["model_utility"].number - first["model_utility"].number,
            -0.05,
            0.05,
        ),
        Check("target: utility", target["model_utility"].number, low=0.5),
        Check("gold: utility", first["model_utility"].number, low=0.5),
        Check("target: accuracy on lands", target["lands/accuracy"].number, low=0.9),
        Check("gold: accuracy on lands", first["lands/accuracy"].number, low=0.9),
    ]
    pairs = {
        (a, b): benchmark.figures(records[b], records[a])["forget_quality/ks_p"].number
        for a, b in combinations(golds, 2)
    }
    checks += [Check(f"{a} against {b}: KS p", p, low=0.2) for (a, b), p in pairs.items()]
    if len(pairs) >= 3:
        checks.append(Check("golds against each other: median KS p", median(pairs.values()), low=0.5))
    return checks


def _row(record: Record) -> dict[str, Any]:
    """A record as a line of a data file; empty fields are left out."""
    return {name: value for name, value in asdict(record).items() if value}


FROM_SCRATCH = WorldTraining(
    model=FreshModel(hidden=128, layers=2, heads=4, feed_forward=384, context=512),
    base=TrainSettings(
        learning_rate=4e-3, epochs=30, batch_size=32, warmup=0.06, final_rate=0.05, betas=(0.9, 0.98)
    ),
    tune=TrainSettings(
        learning_rate=2e-3,
        epochs=40,
        batch_size=32,
        warmup=0.06,
        final_rate=0.05,
        betas=(0.9, 0.98),
        replay=0.5,
    ),
)
"""TOFU with a small model from random weights, its base trained on real authors and world facts."""
FROM_HUB = WorldTraining(
    tune=TrainSettings(learning_rate=1e-5, epochs=5, batch_size=32, warmup=0.2, weight_decay=0.01), golds=1
)
"""TOFU's own fine-tuning of Llama-2-7B (Maini et al., 2024): 5 epochs, one of them warm-up; 2e-5 for Phi-1.5."""


def build_tofu(
    benchmark: Tofu,
    *,
    model: str | None = None,
    arch: str = "llama",
    seed: int = 0,
    workers: int | None = None,
    device: str | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """The folder of TOFU models for a split or a subset of authors: base, target, gold and, from scratch, gold2.

    `model`: a hub id or folder to fine-tune instead of starting from random weights. Kept in the cache.
    """
    training = (
        FROM_HUB
        if model
        else FROM_SCRATCH.model_copy(update={"model": FROM_SCRATCH.model.model_copy(update={"arch": arch})})
    )
    data = benchmark.dataset()
    facts = {
        "data": data.fingerprint(),
        "model": model_hash(model) if model else None,
        "seed": seed,
        "training": training.model_dump(mode="json"),
    }
    inputs = hash_of(facts)
    folder = (
        store.cache_folder()
        / "worlds"
        / f"tofu-{benchmark.split}-{benchmark.authors}authors-{'tuned' if model else arch}-seed{seed}-{inputs[:10]}"
    )
    if not store.finished(folder, inputs):
        with store.workspace(folder, inputs) as partial:
            known = [
                Record(probe.id, probe.question, probe.answer)
                for task in ("real_authors", "world_facts")
                for probe in benchmark.tasks()[task]
            ]
            if not model:
                texts = [
                    text
                    for record in (*data.forget, *data.retain, *known)
                    for text in (record.question, record.answer, *record.perturbed_answer)
                ]
                train_tokenizer(texts, 2048).save_pretrained(partial / "tokenizer")
            train_models(
                partial,
                training,
                seed,
                known,
                list(data.forget),
                list(data.retain),
                workers or free_cores(),
                tell,
                start=model,
                device=device,
            )
            store.write_json(partial / "manifest.json", {"inputs": inputs, **facts})
    return folder


def train_models(
    folder: Path,
    training: WorldTraining,
    seed: int,
    base: list[Record],
    forget: list[Record],
    retain: list[Record],
    workers: int,
    tell: Tell,
    *,
    start: str | None = None,
    device: str | None = "cpu",
) -> None:
    """base, then target and golds side by side; each is skipped when it is there already. With `start`, that is the base."""
    seeds = Seed(seed)

    def job(
        name: str, start: str | Path | None, rows: list[Record], settings: TrainSettings, replay: list[Record]
    ):
        made = recipe("retrain", train=settings, seed=seeds.child(name).number % 2**31)
        return (
            fine_tune,
            (folder / name, start, folder / "tokenizer", training.model, rows, replay, made, device),
        )

    names = ["gold", *(f"gold{i}" for i in range(2, training.golds + 1))]
    first = {} if start else {"base": job("base", None, base, training.base, [])}
    origin, replay = (start, []) if start else (folder / "base", base)
    second = {"target": job("target", origin, [*forget, *retain], training.tune, replay)}
    second |= {name: job(name, origin, retain, training.tune, replay) for name in names}
    for stage in (first, second):
        missing = {
            name: work for name, work in stage.items() if not (folder / name / "config.json").is_file()
        }
        if missing:
            tell(f"training {', '.join(missing)}")
        for name, seconds in run_jobs(missing, workers):
            tell(f"trained {name} in {seconds:.0f} s")


def fine_tune(
    out: Path,
    start: str | Path | None,
    tokenizer_folder: Path,
    shape: FreshModel,
    rows: list[Record],
    replay: list[Record],
    made: Recipe,
    device: str | None = "cpu",
) -> float:
    """Train a model on rows by its answers and save it in `out`; without `start`, from random weights. Returns seconds."""
    import time

    from transformers import AutoTokenizer

    from expunge.models.language_model import TransformerLM
    from expunge.models.load import load_model, save_model
    from expunge.train.feed import Feed, Rows
    from expunge.train.loop import train

    clock = time.perf_counter()
    if start is None:
        tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
        model: Any = shape.build(tokenizer, Seed(made.seed).child("weights").number % 2**31)
    else:
        model, tokenizer, _ = load_model(start, dtype="float32", device=device)
    lm = TransformerLM(model, tokenizer)
    encode = lm.encoder.examples
    feed = Feed(
        model,
        made,
        Rows(retain=encode([r.example() for r in rows]), replay=encode([r.example() for r in replay])),
        lm.pad_id,
    )
    partial = out.with_name(f".{out.name}.partial")
    train(model, feed, made, folder=partial)
    save_model(model, tokenizer, partial / "model")
    (partial / "model").rename(out)
    store.remove(partial)
    return time.perf_counter() - clock
