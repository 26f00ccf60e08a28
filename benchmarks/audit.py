"""How long an audit of pocket takes with nothing kept from before: each suite on one run, its target and its gold, and where the time goes.

    python benchmarks/audit.py [--suites quick standard] [--method npo] [--seed 0] [--floor]

The bound is 180 s for the standard suite on two cores. World and run are built first and not counted.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from expunge.benchmarks.pocket import Pocket
from expunge.run.audit import attack
from expunge.run.bench import Models, make_artifact, preset
from expunge.run.build import build_pocket

BOUND = 180


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suites", nargs="+", default=["quick", "standard"])
    parser.add_argument("--method", default="npo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--floor", action="store_true", help="with the second gold, as on the command line")
    asked = parser.parse_args()
    world = build_pocket("default", asked.seed, tell=print)
    models, benchmark = Models.of(world), Pocket.open(world, half="report")
    print(f"{torch.get_num_threads()} threads")
    for suite in asked.suites:
        with tempfile.TemporaryDirectory() as scratch:
            run = str(Path(scratch) / "run")
            make_artifact(run, benchmark, models, preset("pocket", asked.method, asked.seed))
            os.environ["EXPUNGE_CACHE"] = str(Path(scratch) / "cache")
            spent: dict[str, float] = {}
            last = [time.perf_counter()]

            def note(what: str, done: int, total: int, spent=spent, last=last) -> None:
                now = time.perf_counter()
                spent[what] = spent.get(what, 0.0) + now - last[0]
                last[0] = now

            begin = time.perf_counter()
            result = attack(
                run, benchmark, suite=suite, gold=models.gold, target=models.target,
                floor=models.floor if asked.floor else None, progress=note,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            del os.environ["EXPUNGE_CACHE"]
        trials = sum(row["n"] * row["k"] for row in result["attacks"])
        parts = ", ".join(f"{what} {took:.0f} s" for what, took in spent.items())
        bound = f", {seconds / BOUND:.2f} of the bound" if suite == "standard" else ""
        print(f"{suite}: {seconds:.0f} s for about {trials} trials a model{bound} ({parts})")


if __name__ == "__main__":
    main()
