"""A benchmark from end to end: models, methods, measurements, attacks and one report, each step resumed where it was left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from expunge.benchmarks._open import open_benchmark
from expunge.errors import ConfigError
from expunge.recipes import Recipe, read_recipe
from expunge.run.folds import refuse_protocol
from expunge.run.workers import free_cores, run_jobs
from expunge.types import Seed

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
    protocol: str = "",
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
    refuse_protocol(protocol, recipes)
    for name, made in recipes.items():
        if arch != "moe" and "router" in made.needs:
            raise ConfigError(
                f"'{name}' selects experts, and the world of --arch {arch} has none. Run it with --arch moe."
            )
    world = build_pocket(size, seed, arch, workers=workers, tell=tell)
    spec = ("pocket", {"data": str(world), "half": "all" if protocol else "report"})
    return finish(Path(out), spec, Models.of(world), recipes, protocol, workers=workers, tell=tell)


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
    protocol: str = "",
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
    refuse_single(
        target, gold, "the model that learned all authors, and the one that never saw the forgotten"
    )
    family = "tofu" if model or target else "tofu-scratch"
    recipes = {name: preset(family, name, seed) for name in methods}
    refuse_protocol(protocol, recipes)
    arguments: dict[str, Any] = {"data": data, "split": split, "authors": authors, "template": template}
    if target and gold:
        models = Models(target, gold)
    else:
        world = build_tofu(Tofu(**arguments), model=model, arch=arch, seed=seed, workers=workers, tell=tell)
        models = Models.of(world, base=model)
    parted = family == "tofu-scratch" and Tofu(**arguments).forgotten > 1
    half = "report" if parted and not protocol else "all"  # folds take all the forgotten, one after the other
    spec = ("tofu", {**arguments, "half": half})
    return finish(Path(out), spec, models, recipes, protocol, workers=workers, tell=tell)


MUSE = ("ga", "graddiff", "npo", "simnpo")
"""Presets or method strings with the settings of `muse-npo` (from a hub model) or `muse-scratch-npo`."""


def bench_muse(
    out: str | Path,
    *,
    data: str | None,
    options: Mapping[str, Any] | None = None,
    model: str | None = None,
    target: str | None = None,
    gold: str | None = None,
    seed: int = 0,
    methods: Sequence[str] = MUSE,
    protocol: str = "",
    workers: int | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """MUSE from `data` (a folder or hub id) with a small model from scratch, a model to fine-tune, or a target and a gold that exist
    already. `options`: those of the benchmark. Returns the report, or with `protocol` the folder of the folds.
    """
    from expunge.run.build_texts import CHUNK, build_muse

    refuse_single(target, gold, "the model that learned all texts, and the one that never saw the forgotten")
    family = "muse" if model or target else "muse-scratch"
    recipes = {name: preset(family, name, seed) for name in methods}
    refuse_protocol(protocol, recipes)
    arguments = {"data": data, **({} if family == "muse" else {"chunk": CHUNK}), **(options or {})}
    if target and gold:
        models = Models(target, gold)
    else:
        benchmark: Any = open_benchmark("muse", **arguments)
        models = Models.of(
            build_muse(benchmark, model=model, seed=seed, workers=workers, tell=tell), base=model
        )
    return finish(Path(out), ("muse", arguments), models, recipes, protocol, workers=workers, tell=tell)


def refuse_single(target: str | None, gold: str | None, what: str) -> None:
    """Raises ConfigError where only one of two models is given."""
    if (target is None) != (gold is None):
        raise ConfigError(f"--target and --gold go together: {what}.")


def finish(
    out: Path,
    spec: tuple[str, dict[str, Any]],
    models: Models,
    recipes: dict[str, Recipe],
    protocol: str,
    *,
    workers: int | None,
    tell: Tell,
) -> Path:
    """The usual protocol, or the folds of another one."""
    run = partial(run_protocol, protocol) if protocol else run_bench
    return run(out, spec, models, recipes, workers=workers, tell=tell)


def run_protocol(
    protocol: str,
    out: Path,
    spec: tuple[str, dict[str, Any]],
    models: Models,
    recipes: dict[str, Recipe],
    *,
    workers: int | None = None,
    tell: Tell = lambda what: None,
) -> Path:
    """Each recipe over all folds, side by side, in `out/<method>/<protocol>`. Returns `out`."""
    from expunge.run.folds import run_folds

    tell(f"{len(recipes)} methods on {spec[0]}, {protocol}")
    jobs = {
        name: (run_folds, (str(out / name / protocol), spec, models, made, protocol))
        for name, made in recipes.items()
    }
    for done, (name, seconds) in enumerate(run_jobs(jobs, workers or free_cores()), start=1):
        tell(f"{done} of {len(jobs)}: {name}, {f'{seconds:.0f} s' if seconds else 'done before'}")
    return out


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
    suite: str = "quick",
    only: Sequence[str] = (),
) -> float:
    """One row of the table: artifact, evaluation, audit. Returns seconds; 0 when all of it was there."""
    from expunge.run import evaluate, model_hash
    from expunge.run.audit import attack, is_audited

    begin = time.perf_counter()
    name, arguments = spec  # plain values, which cross process borders where the benchmark itself need not
    benchmark: Any = open_benchmark(name, **arguments)
    asked = hasattr(benchmark, "forget_probes")  # texts have no facts to ask for
    make_artifact(out, benchmark, models, made)
    measured = Path(out) / "evaluations" / f"{benchmark.name}.json"
    if not (measured.is_file() and json.loads(measured.read_text())["subject"]["sha256"] == model_hash(out)):
        evaluate(out, benchmark, gold=models.gold, floor=models.floor, target=models.target)
    elif not asked or is_audited(out, benchmark, suite, only, gold=models.gold, target=models.target):
        return 0.0
    if asked:
        attack(out, benchmark, only, suite=suite, gold=models.gold, floor=models.floor, target=models.target)
    return time.perf_counter() - begin


def make_artifact(out: str, benchmark: Any, models: Models, made: Recipe) -> None:
    """Unlearn the benchmark's forget set from its target, with the trajectory where the recipe asks for one."""
    from expunge.run import unlearn
    from expunge.run.measuring import count_tokens_of
    from expunge.run.trajectory import probe_of

    count_tokens_of(models.target, benchmark)
    data = benchmark.dataset()
    more: dict[str, Any] = {}
    if hasattr(benchmark, "of_half"):
        selection = benchmark.of_half("select").forget_subjects()
        more["selection"] = [record for record in data.forget if record.group in selection]
        more["refusals"] = benchmark.refusals()
    if made.kind == "training" and made.train.select == "gold" and not made.train.probe_every:
        made = each_epoch(made, len(data.forget))
    probed = made.kind == "training" and made.train.probe_every
    unlearn(
        models.target,
        data,
        made,
        out,
        base=models.base,
        template=benchmark.template,
        probe=probe_of(benchmark, models.gold) if probed else None,
        **more,
    )


def each_epoch(made: Recipe, rows: int) -> Recipe:
    """The recipe, probed after every pass over so many forget rows, as MUSE's stop rule is."""
    steps = -(-rows // made.train.batch_size)
    return made.model_copy(update={"train": made.train.model_copy(update={"probe_every": steps})})
