"""What every detector of the catalogue misses and flags wrongly, side by side, on worlds of the pocket benchmark.

    python benchmarks/detectors.py [--seeds 0 1 2] [--detectors aliases ngram] [--size default] [--out runs/detectors]

Each detector is fitted as `expunge guard fit` does it, with its default settings, in front of the world's target, and asked about the
reporting half of the forget people. Counts of all seeds are added up. A detector that cannot be fitted is left out, with the
reason. What was fitted already is not fitted again. Prints Markdown.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from expunge import catalog
from expunge.benchmarks.pocket import Pocket
from expunge.errors import UserError
from expunge.metrics.intervals import wilson
from expunge.recipes import recipe
from expunge.run import load, unlearn
from expunge.run.build import build_pocket
from expunge.run.detection import FORGET, RETAIN, Counted, detector_table

Counts = dict[tuple[str, str], tuple[int, int]]
"""By rewrite and rows: how many were wrong, of how many."""


def count(world: Path, name: str, seed: int, out: Path) -> list[Counted]:
    """The table of one detector on one world. Raises UserError where it cannot be fitted."""
    benchmark = Pocket.open(world)
    made = recipe("refuse", detector=name, seed=seed)  # the action plays no part
    run = unlearn(
        world / "target",
        benchmark.dataset(),
        made,
        out / f"seed-{seed}" / name,
        template=benchmark.template,
        device="cpu",
    )
    return detector_table(load(run, device="cpu").detection, benchmark)


def gather(
    names: Sequence[str], seeds: Sequence[int], size: str, out: Path, tell: Callable[[str], None]
) -> tuple[dict[str, Counts], dict[str, str]]:
    """Counts by detector, and why others have none."""
    found: dict[str, Counts] = {}
    skipped: dict[str, str] = {}
    for seed in seeds:
        world = build_pocket(size, seed, tell=tell)
        for name in names:
            if name in skipped:
                continue
            tell(f"{name} on seed {seed}")
            try:
                table = count(world, name, seed, out)
            except UserError as error:
                skipped[name] = str(error).splitlines()[0]
                found.pop(name, None)
                continue
            counts = found.setdefault(name, {})
            for row in table:
                wrong, n = counts.get((row.rewrite, row.rows), (0, 0))
                counts[row.rewrite, row.rows] = wrong + row.wrong, n + row.n
    return found, skipped


def markdown(found: dict[str, Counts], skipped: dict[str, str], title: str) -> str:
    """Three tables: misses by rewrite, false alarms by rewrite, false alarms on the other groups."""
    keys = list(next(iter(found.values()), {}))
    tables = {
        "Missed, of forget prompts": [key for key in keys if key[1] == FORGET],
        "False alarms, of retain prompts in the same rewrites": [key for key in keys if key[1] == RETAIN],
        "False alarms, of other prompts": [key for key in keys if key[1] not in (FORGET, RETAIN)],
    }
    lines = [f"# {title}", "", "Rate with its 95 % interval (Wilson).", ""]
    for heading, rows in tables.items():
        lines += [f"## {heading}", "", *_table(found, rows), ""]
    return "\n".join([*lines, *(f"Left out: {name}: {why}" for name, why in skipped.items())])


def _table(found: dict[str, Counts], keys: Sequence[tuple[str, str]]) -> list[str]:
    """One line a kind of prompt; those at which nobody is wrong are named together below, by how many there were."""
    shown: list[str] = []
    clean: dict[int, list[str]] = {}
    for key in keys:
        counts = [found[name][key] for name in found]
        n = counts[0][1]
        label = key[0] if key[1] in (FORGET, RETAIN) else key[1]
        if any(wrong for wrong, _ in counts):
            shown.append(f"| {label} | {n} | {' | '.join(_cell(*count) for count in counts)} |")
        elif n:
            clean.setdefault(n, []).append(label)
    head = [f"| asked | n | {' | '.join(found)} |", "|---|---|" + "---|" * len(found)]
    none = [
        f"None by any of them in {n} prompts each (at most {wilson(0, n).high:.3f}): {', '.join(labels)}."
        for n, labels in clean.items()
    ]
    return [*((*head, *shown, "") if shown else ()), *none]


def _cell(wrong: int, n: int) -> str:
    low, high = wilson(wrong, n)
    return f"{wrong / n:.2f} ({low:.2f}–{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--detectors",
        nargs="+",
        choices=catalog.entries("detector"),
        default=list(catalog.entries("detector")),
    )
    parser.add_argument("--size", default="default")
    parser.add_argument("--out", type=Path, default=Path("runs/detectors"))
    asked = parser.parse_args()
    found, skipped = gather(
        asked.detectors,
        asked.seeds,
        asked.size,
        asked.out,
        lambda what: print(f"<!-- {what} -->", flush=True),
    )
    print(
        markdown(
            found, skipped, f"Detectors on pocket ({asked.size}), seeds {', '.join(map(str, asked.seeds))}"
        )
    )


if __name__ == "__main__":
    main()
