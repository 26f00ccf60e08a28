"""Choose the learning rate of every `pocket` preset: the same four rates for each, on a world that no result is reported on.

    python benchmarks/tune_pocket.py [--world-seed 7] [--workers 2] [--out runs/tune]

Of the rates at which the selection half becomes level (right answers as likely as wrong ones), the one with the highest utility
wins; if none does, of those that answer at most 5 % of its questions; if none does that either, the one nearest to level. No
gold model takes part in the choice; its KS p is
printed beside it.
"""

import argparse
import json
import time
from pathlib import Path

from expunge.recipes import Recipe
from expunge.run import unlearn
from expunge.run.bench import POCKET, open_benchmark, preset
from expunge.run.build import build_pocket
from expunge.run.trajectory import TrajectoryProbe
from expunge.run.workers import run_jobs

RATES = (2e-4, 5e-4, 1e-3, 2e-3)
LORA_FACTOR = 5
"""Adapters take higher rates than full weights."""


def try_rate(world: str, recipe: Recipe, out: str) -> dict:
    benchmark = open_benchmark(("pocket", {"folder": world, "half": "select"}))
    probe = TrajectoryProbe(benchmark, Path(world) / "gold")
    folder = unlearn(
        Path(world) / "target",
        benchmark.dataset(),
        recipe,
        out,
        refusals=benchmark.refusals(),
        device="cpu",
        probe=probe,
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    points = {
        entry["step"]: entry
        for entry in map(json.loads, (folder / "trace.jsonl").read_text().splitlines())
        if "select" in entry
    }
    point = points[manifest["chosen_step"]]
    return {
        "reached": manifest["level_reached"],
        "step": manifest["chosen_step"],
        "gap": point["level_gap"],
        "utility": point["utility"],
        **point["select"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world-seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/tune"))
    parser.add_argument("--methods", nargs="*", default=POCKET)
    arguments = parser.parse_args()
    world = build_pocket(seed=arguments.world_seed, workers=arguments.workers, tell=print)
    recipes = {name: preset("pocket", name, arguments.world_seed) for name in arguments.methods}
    jobs = {}
    for name, recipe in recipes.items():
        if recipe.kind == "training":
            for full in RATES:
                rate = full * (LORA_FACTOR if "adapter" in recipe.axes else 1)
                made = recipe.model_copy(
                    update={"train": recipe.train.model_copy(update={"learning_rate": rate})}
                )
                jobs[f"{name} {rate:g}"] = (
                    try_rate,
                    (str(world), made, str(arguments.out / f"{name}-{rate:g}")),
                )
    begin = time.perf_counter()
    found: dict[str, dict[str, dict]] = {}
    for key, result in run_jobs(jobs, arguments.workers):
        name, rate = key.split()
        found.setdefault(name, {})[rate] = result
        print(
            f"{time.perf_counter() - begin:6.0f} s  {key:18s} "
            + "  ".join(f"{k} {v:.3g}" for k, v in result.items() if isinstance(v, (int, float))),
            flush=True,
        )
    for name, rates in found.items():
        level = {rate: result for rate, result in rates.items() if result["reached"]}
        silent = {rate: result for rate, result in rates.items() if result["forget/accuracy"] <= 0.05}
        nearest = min(rates, key=lambda rate: abs(rates[rate]["gap"]))
        able = level or silent or {nearest: rates[nearest]}
        print(
            f"{name}: {max(able, key=lambda rate: able[rate]['utility'])}"
            + ("" if level else " (never level)")
        )


if __name__ == "__main__":
    main()
