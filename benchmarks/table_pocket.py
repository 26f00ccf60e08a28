"""The closing table: every method on several pocket worlds, as a Markdown table of the median and the range over seeds.

    python benchmarks/table_pocket.py [--seeds 0 1 2] [--methods npo eco] [--out runs/table]

Figures are those of the reporting half, against a gold retrained for the same seed. What is done already is not done again.
"""

import argparse
from pathlib import Path
from statistics import median

from expunge.reports.page import table_rows
from expunge.reports.view import read_run
from expunge.run.bench import POCKET, bench_pocket

COLUMNS = {
    "forget_quality/ks_p": "KS p",
    "forget_quality/ks_distance": "KS D",
    "model_utility": "utility",
    "forget/accuracy": "forget",
    "retain/accuracy": "retain",
    "neighbours/accuracy": "neighbours",
    "known/accuracy": "known",
    "lands/accuracy": "lands",
    "forget/fluency": "fluency",
    "membership/auc": "AUC",
    "prefill": "prefill",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--methods", nargs="+", default=POCKET)
    arguments = parser.parse_args()
    seen: dict[str, dict[str, list[float | None]]] = {}
    for seed in arguments.seeds:
        out = arguments.out / f"seed{seed}"
        bench_pocket(out, seed=seed, methods=arguments.methods, tell=print)
        for row in table_rows([read_run(out / name) for name in arguments.methods])[1]:
            cells = seen.setdefault(row["name"], {})
            for name in COLUMNS:
                figure = row["figures"].get(name)
                cells.setdefault(name, []).append(figure["value"] if figure else None)
            cells.setdefault("seconds", []).append(row["seconds"])
    print("| method | " + " | ".join([*COLUMNS.values(), "seconds"]) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for name, cells in seen.items():
        print(f"| {name} | " + " | ".join(shown(key, values) for key, values in cells.items()) + " |")


def shown(name: str, values: list[float | None]) -> str:
    """Median, and the range over seeds below it; a dash where a figure is not defined."""
    found = [value for value in values if value is not None]
    if not found:
        return "–"
    form = (
        "{:.1e}"
        if name.endswith("ks_p") and min(found) < 0.001
        else "{:.0f}"
        if name == "seconds"
        else "{:.2f}"
    )
    low, middle, high = (form.format(f(found)) for f in (min, median, max))
    return middle if low == high else f"{middle} ({low}–{high})"


if __name__ == "__main__":
    main()
