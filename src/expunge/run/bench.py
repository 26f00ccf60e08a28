"""A benchmark from end to end: models, methods, measurements, attacks and one report, each step resumed where it was left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.benchmarks._open import open_benchmark
from expunge.errors import ConfigError
from expunge.recipes import Recipe, read_recipe
from expunge.run.workers import free_cores, run_jobs
from expunge.types import Seed

if TYPE_CHECKING:
    from expunge.benchmarks._qa_benchmark import QABenchmark

Tell = Callable[[str], None]
POCKET = (
    "ga",
    "graddiff",
    "npo",
    "npo-kl",
    "simnpo",
    "npo-gru",
    "dpo",
    "idk",
    "npo-lora",
    "eco",
    "neutral",
    "refuse",
)
"""Presets `pocket-<name>` in the order of the table."""
ARCHS = {"seuf": "moe"}
"""Presets `pocket-<name>` that only a world of this architecture can run; all others take any."""


def bench_pocket(
    out: str | Path,
    *,
    size: str = "default",
    seed: int = 0,
    arch: str = "llama",
    methods: Sequence[str] = POCKET,
    workers: int | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """Build (or find) the world of a seed, run the methods on it, and write `report.html` in `out`. Returns that page.

    `methods`: preset names without their `pocket-`, or method strings, which then take the settings of `pocket-npo`.
    """
    from expunge.run.build import build_pocket

    recipes = {
        name: preset("pocket", name, seed) for name in methods
    }  # a typo is told before anything is trained
    for name, made in recipes.items():
        if arch != "moe" and "router" in made.needs:
            raise ConfigError(
                f"'{name}' selects experts, and the world of --arch {arch} has none. Run it with --arch moe."
            )
    world = build_pocket(size, seed, arch, workers=workers, tell=tell)
    spec = ("pocket", {"data": str(world), "half": "report"})
    return run_bench(Path(out), spec, Models.of(world), recipes, workers=workers, tell=tell)


TOFU = ("graddiff", "npo", "simnpo", "idk", "eco", "neutral", "refuse")
"""Presets `tofu-<name>` (from a hub model) or `tofu-scratch-<name>`."""


def bench_tofu(
    out: str | Path,
    *,
    data: str | None,
    split: str = "forget10",
    authors: int | None = None,
    model: str | None = None,
    target: str | None = None,
    gold: str | None = None,
    template: str = "auto",
    arch: str = "llama",
    seed: int = 0,
    methods: Sequence[str] = TOFU,
    workers: int | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """TOFU from `data` (a folder or hub id) with a small model from scratch, a model to fine-tune, or a target and a gold that
    exist already. Returns the report.
    """
    from expunge.benchmarks.tofu import Tofu
    from expunge.run.build import build_tofu

    if data is None:
        raise ConfigError(
            "tofu needs --data: a folder of TOFU's JSONL files, or a hub id such as locuslab/TOFU."
        )
    if (target is None) != (gold is None):
        raise ConfigError(
            "--target and --gold go together: the model that learned all authors, and the one that never saw the forgotten."
        )
    family = "tofu" if model or target else "tofu-scratch"
    recipes = {name: preset(family, name, seed) for name in methods}
    arguments: dict[str, Any] = {"data": data, "split": split, "authors": authors, "template": template}
    if target and gold:
        models = Models(target, gold)
    else:
        world = build_tofu(Tofu(**arguments), model=model, arch=arch, seed=seed, workers=workers, tell=tell)
        models = Models.of(world, base=model)
    half = "report" if family == "tofu-scratch" and Tofu(**arguments).forgotten > 1 else "all"
    return run_bench(
        Path(out), ("tofu", {**arguments, "half": half}), models, recipes, workers=workers, tell=tell
    )


class Models(NamedTuple):
    """The models that a bench measures with."""

    target: str
    gold: str
    floor: str | None = None
    """A second gold."""
    base: str | None = None
    """What target and golds started from."""

    @classmethod
    def of(cls, world: Path, base: str | None = None) -> Models:
        """Those of a built world."""
        second, first = world / "gold2", world / "base"
        return cls(
            str(world / "target"),
            str(world / "gold"),
            str(second) if second.exists() else None,
            base or (str(first) if first.exists() else None),
        )


def preset(family: str, name: str, seed: int, overrides: Sequence[str] = ()) -> Recipe:
    """`<family>-<name>` of the presets, with overrides as `--set` takes them, or a method string with the training settings
    of `<family>-npo`.
    """
    from expunge.recipes import RECIPES, recipe

    seed = Seed(seed).child("recipe").number % 2**31
    if (RECIPES / f"{family}-{name}.yaml").is_file():
        return read_recipe(f"{family}-{name}", [f"seed={seed}", *overrides])
    default = read_recipe(f"{family}-npo")
    made = recipe(name, seed=seed)
    return (
        made
        if made.kind == "guard"
        else made.model_copy(update={"train": default.train, "source": f"settings of {family}-npo"})
    )


def run_bench(
    out: Path,
    spec: tuple[str, dict[str, Any]],
    models: Models,
    recipes: dict[str, Recipe],
    *,
    workers: int | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """Unlearn, evaluate and attack with each recipe, side by side, and write one report over all of them."""
    from expunge.reports.page import write_comparison

    begin = time.perf_counter()
    tell(f"{len(recipes)} methods on {spec[0]}")
    jobs = {name: (run_method, (str(out / name), spec, models, made)) for name, made in recipes.items()}
    for done, (name, seconds) in enumerate(run_jobs(jobs, workers or free_cores()), start=1):
        tell(
            f"{done} of {len(jobs)}: {name}, {seconds:.0f} s"
            if seconds
            else f"{done} of {len(jobs)}: {name}, done before"
        )
    tell("writing the report")
    page = write_comparison([out / name for name in recipes], out / "report.html")
    tell(f"finished in {time.perf_counter() - begin:.0f} s")
    return page


def run_method(
    out: str,
    spec: tuple[str, dict[str, Any]],
    models: Models,
    made: Recipe,
    attacks: Sequence[str] = ("prefill",),
) -> float:
    """One row of the table: artifact, evaluation, attacks. Returns seconds; 0 when all of it was there."""
    from expunge.run import attack, evaluate, model_hash

    begin = time.perf_counter()
    name, arguments = spec  # plain values, which cross process borders where the benchmark itself need not
    benchmark: Any = open_benchmark(name, **arguments)
    results = (benchmark.name, *(f"attack-{name}" for name in attacks))
    done = [Path(out) / "evaluations" / f"{result}.json" for result in results]
    make_artifact(out, benchmark, models, made)
    subject = {"name": out, "sha256": model_hash(out)}
    if all(path.is_file() and json.loads(path.read_text())["subject"] == subject for path in done):
        return 0.0
    evaluate(out, benchmark, gold=models.gold, floor=models.floor)
    for name in attacks:
        attack(out, benchmark, name, gold=models.gold, floor=models.floor)
    return time.perf_counter() - begin


def make_artifact(out: str, benchmark: QABenchmark, models: Models, made: Recipe) -> None:
    """Unlearn the benchmark's forget set from its target, with the trajectory where the recipe asks for one."""
    from expunge.run import unlearn
    from expunge.run.trajectory import TrajectoryProbe

    selection = benchmark.of_half("select").forget_subjects()
    data = benchmark.dataset()
    probed = made.kind == "training" and made.train.probe_every
    unlearn(
        models.target,
        data,
        made,
        out,
        base=models.base,
        refusals=benchmark.refusals(),
        template=benchmark.template,
        probe=TrajectoryProbe(benchmark, models.gold) if probed else None,
        selection=[record for record in data.forget if record.group in selection],
    )
