"""Choose one setting of every `pocket` preset that has something to choose: four runs each, on a world that no result is
reported on.

    python benchmarks/tune_pocket.py [--presets npo task-vector] [--workers 2] [--out runs/tune]

What is tried is a learning rate, or what GRIDS names. Of the settings at which the selection half becomes level (right answers
as likely as wrong ones), the one with the highest utility wins; if none does, of those that answer at most 5 % of its
questions; if none does that either, the one nearest to level. No gold model takes part in the choice; its KS p is printed
beside it. What is done already is not done again.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of, read_manifest
from expunge.benchmarks._open import open_benchmark
from expunge.errors import TrainingError
from expunge.recipes import Recipe, preset_names
from expunge.run import load
from expunge.run.bench import ARCHS, Models, make_artifact, preset
from expunge.run.build import build_pocket
from expunge.run.trajectory import TrajectoryProbe
from expunge.run.workers import free_cores, run_jobs

RATES = (2e-4, 5e-4, 1e-3, 2e-3)
ADAPTER_FACTOR = 5
"""Adapters take higher rates than full weights."""
GRIDS = {
    "task-vector": tuple(f"procedure.alpha={alpha}" for alpha in (1.0, 2.0, 5.0, 10.0)),
    "undo": tuple(f"procedure.learning_rate={rate:g}" for rate in RATES),
    "rocr": tuple(f"edit.penalty={size:g}" for size in (1, 0.1, 0.01, 0.001)),
    "lcodec": tuple(f"edit.damping={size:g}" for size in (1e-2, 1e-3, 5e-4, 1e-4)),
    "npo-continual": (),
    "npo-gold": (),
    "npo-orthogonal": (),
}
"""Presets whose four runs are spent on something else than the learning rate, written as `--set` takes it; or that take the
numbers of another preset (none), as those do that differ from it in the procedure alone.
"""
PRESETS = tuple(
    name.removeprefix("pocket-")
    for name in preset_names()
    if name.startswith("pocket-") and name != "pocket-uld-assistant"  # no unlearned model by itself
)
SEED = 7
"""Of the world that settings are chosen on."""


class Choice(NamedTuple):
    """What the four runs of a preset say."""

    best: str
    """As `--set` takes it."""
    level: bool
    """Whether right and wrong answers became equally likely at it."""
    agrees: bool
    """Whether the preset has it."""
    trials: dict[str, dict]


def grid(name: str) -> tuple[str, ...]:
    """The settings that are tried of a preset; none of guards and of what trains again without the forget set."""
    if name in GRIDS:
        return GRIDS[name]
    made = preset("pocket", name, SEED)
    if made.kind != "training" or made.claim == "exact":
        return ()
    factor = ADAPTER_FACTOR if "adapter" in made.axes else 1
    return tuple(f"train.learning_rate={factor * rate:g}" for rate in RATES)


def try_setting(world: str, made: Recipe, out: str) -> dict:
    """What the selection half says of one setting's artifact; from the file beside it when it was tried before."""
    kept, asked = Path(f"{out}.json"), hash_of([Path(world).name, made.describe()])
    if kept.is_file() and (found := store.read_json(kept))["asked"] == asked:
        return found
    benchmark, models = (
        open_benchmark("pocket", world, half="select"),
        Models.of(Path(world)),
    )
    try:
        make_artifact(out, benchmark, models, made)
    except TrainingError as error:
        found = {"asked": asked, "failed": str(error).splitlines()[0]}
    else:
        step = read_manifest(Path(out)).get("chosen_step") or 0
        artifact = load(out, device="cpu", template=benchmark.template)
        point = TrajectoryProbe(benchmark, models.gold)(artifact, step)
        facts = {name: point[name] for name in ("level_reached", "level_gap", "utility")}
        found = {"asked": asked, "step": step, **facts, **point["select"]}
    store.write_json(kept, found)
    return found


def choose(name: str, trials: dict[str, dict]) -> Choice:
    """The rule above; a run that exploded is no candidate."""
    done = {setting: found for setting, found in trials.items() if "failed" not in found}
    if not done:
        raise TrainingError(f"pocket-{name}: training exploded at all of {', '.join(trials)}.")
    level = {setting: found for setting, found in done.items() if found["level_reached"]}
    silent = {setting: found for setting, found in done.items() if found["forget/accuracy"] <= 0.05}
    nearest = min(done, key=lambda setting: abs(done[setting]["level_gap"]))
    able = level or silent or {nearest: done[nearest]}
    best = max(able, key=lambda setting: able[setting]["utility"])
    agrees = preset("pocket", name, SEED) == preset("pocket", name, SEED, [best])
    return Choice(best, bool(level), agrees, trials)


def tune(presets, out: Path, *, size: str = "default", workers: int, tell=print) -> dict[str, Choice]:
    """The choice for each preset that has a grid."""
    jobs = {}
    for arch in dict.fromkeys(ARCHS.get(name, "llama") for name in presets):
        world = build_pocket(size, SEED, arch, workers=workers, tell=tell)
        for name in presets:
            for setting in grid(name) if ARCHS.get(name, "llama") == arch else ():
                made = preset("pocket", name, SEED, [setting])
                jobs[f"{name} {setting}"] = (try_setting, (str(world), made, str(out / name / setting)))
    trials: dict[str, dict] = {}
    for key, found in run_jobs(jobs, workers):
        trials[key] = found
        shown = [f"{what} {value:.3g}" for what, value in found.items() if isinstance(value, (int, float))]
        tell(f"{key:40s} " + "  ".join(shown or [found["failed"]]))
    tried = {name: {setting: trials[f"{name} {setting}"] for setting in grid(name)} for name in presets}
    return {name: choose(name, found) for name, found in tried.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--workers", type=int, default=free_cores())
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    arguments = parser.parse_args()
    for name, choice in tune(arguments.presets, arguments.out, workers=arguments.workers).items():
        print(
            f"{name}: {choice.best}"
            + ("" if choice.level else " (never level)")
            + ("" if choice.agrees else "  <- the preset has another one")
        )


if __name__ == "__main__":
    main()
