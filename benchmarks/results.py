"""The results: tune every `pocket` preset with one budget, run them all on several worlds, attack them, and write one page.

    python benchmarks/results.py [--presets npo eco] [--seeds 0 1 2] [--workers 2] [--out runs/results] [--page docs/results.md]

Figures are those of the reporting half, against a gold retrained for the same seed. What is done already is not done again, so
a killed run goes on where it was. What stands between the two marks of the page is written by hand and kept.
"""

import argparse
from pathlib import Path
from statistics import median

from tune_pocket import PRESETS, RATES, SEED, Choice, tune

from expunge.artifacts import store
from expunge.errors import TrainingError
from expunge.recipes import Recipe
from expunge.reports.view import RunView, read_run
from expunge.run.bench import ARCHS, Models, preset, run_method
from expunge.run.build import build_pocket
from expunge.run.workers import free_cores, run_jobs

COLUMNS = {
    "forget_quality/ks_p": "KS p",
    "forget_quality/ks_distance": "KS D",
    "forget/accuracy": "forget",
    "model_utility": "utility",
    "retain/accuracy": "retain",
    "neighbours/accuracy": "neighbours",
    "known/accuracy": "known",
    "lands/accuracy": "lands",
    "forget/fluency": "fluency",
    "membership/auc": "AUC",
    "prefill": "prefill",
    "relearning": "relearned",
    "relearning/excess": "excess",
}
BESIDE = {"target": "target", "gold": "gold", "floor": "second gold"}
KINDS = ("reference", "training", "edit", "guard")
"""In the order of the table."""
BEGIN, END = "<!-- by hand: kept when the page is made again -->", "<!-- end of what is by hand -->"
UNWRITTEN = "## Orderings that differ from the papers\n\nNot written yet for these figures."

Figures = dict[str, list[dict]]
"""Of one row: what was measured, by column, one entry a seed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", default="default")
    parser.add_argument("--workers", type=int, default=free_cores())
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    asked = parser.parse_args()
    choices = tune(asked.presets, asked.out / "tuning", size=asked.size, workers=asked.workers)
    failed = run_cells(asked.presets, asked.seeds, asked.size, asked.out, asked.workers)
    rows = {}
    for arch in dict.fromkeys(map(arch_of, asked.presets)):
        rows |= rows_of(
            [name for name in asked.presets if arch_of(name) == arch], arch, asked.seeds, asked.out
        )
    by_hand = UNWRITTEN
    if asked.page.is_file():
        old = asked.page.read_text(encoding="utf-8")
        by_hand = old.partition(BEGIN)[2].partition(END)[0].strip() or UNWRITTEN
    store.write_text(asked.page, page(rows, choices, failed, asked.seeds, by_hand))
    print(f"written: {asked.page}")


def arch_of(name: str) -> str:
    return ARCHS.get(name, "llama")


# --- running ----------------------------------------------------------------------------------------------------------
def run_cells(presets, seeds, size: str, out: Path, workers: int) -> dict[str, list[str]]:
    """Every preset on every seed's world. Returns, by preset, what training said where it exploded."""
    jobs = {}
    for arch in dict.fromkeys(map(arch_of, presets)):
        for seed in seeds:
            world = build_pocket(size, seed, arch, workers=workers, tell=print)
            spec = ("pocket", {"data": str(world), "half": "report"})
            for name in (name for name in presets if arch_of(name) == arch):
                cell = str(out / f"seed{seed}" / name)
                jobs[f"{name} {seed}"] = (
                    run_cell,
                    (cell, spec, Models.of(world), preset("pocket", name, seed)),
                )
    failed: dict[str, list[str]] = {}
    for done, (key, result) in enumerate(run_jobs(jobs, workers), start=1):
        name, seed = key.split()
        if isinstance(result, str):
            failed.setdefault(name, []).append(f"seed {seed}: {result}")
        said = result if isinstance(result, str) else f"{result:.0f} s" if result else "done before"
        print(f"{done} of {len(jobs)}: {name}, seed {seed}: {said}", flush=True)
    return failed


def run_cell(out: str, spec, models: Models, made: Recipe) -> float | str:
    """Seconds, 0 when it was done before; or why training could not go on."""
    try:
        return run_method(out, spec, models, made, suite="standard")
    except TrainingError as error:
        return str(error).splitlines()[0]


# --- the page ---------------------------------------------------------------------------------------------------------
def rows_of(presets, arch: str, seeds, out: Path) -> dict[tuple[str, str], Figures]:
    """(kind, name) to figures, of the presets of one architecture and of what stands beside them."""
    rows: dict[tuple[str, str], Figures] = {}
    mark = "" if arch == "llama" else f" ({arch})"
    for seed in seeds:
        runs = [path for name in presets if (path := out / f"seed{seed}" / name).is_dir()]
        views = [read_run(path) for path in runs]
        for who, label in BESIDE.items() if views else ():
            add(rows.setdefault(("reference", label + mark), {}), views[0], who)
        for view in views:
            figures = rows.setdefault((kind_of(view), view.name + mark), {})
            add(figures, view, "run")
            figures.setdefault("steps", []).append({"value": view.manifest.get("steps")})
            figures.setdefault("seconds", []).append({"value": view.manifest["seconds"]["total"]})
    return rows


def kind_of(view: RunView) -> str:
    if view.manifest["claim"] == "exact":
        return "reference"
    return preset("pocket", view.name, 0).kind


def add(figures: Figures, view: RunView, who: str) -> None:
    for name in COLUMNS:
        if figure := view.figure(name, who):
            figures.setdefault(name, []).append(figure)


def page(
    rows: dict[tuple[str, str], Figures],
    choices: dict[str, Choice],
    failed: dict[str, list[str]],
    seeds,
    by_hand,
) -> str:
    headings = {**COLUMNS, "steps": "steps", "seconds": "seconds"}
    ordered = sorted(rows, key=lambda row: KINDS.index(row[0]))  # stable: as they came within a kind
    lines = [
        "# Results on pocket",
        "",
        "Made by `make results`; only the part between the marks is written by hand. "
        f"Median, and range in brackets, over the worlds of seed {', '.join(map(str, seeds))}; of the reporting half.",
        "",
        *budget(choices),
        "",
        "| kind | method | " + " | ".join(headings.values()) + " |",
        "|---" * (len(headings) + 2) + "|",
    ]
    for kind, name in ordered:
        cells = [shown(column, rows[kind, name].get(column, [])) for column in headings]
        lines.append(f"| {kind} | {name} | " + " | ".join(cells) + " |")
    lines += ["", *LEGEND, "", *absent(rows, failed), BEGIN, "", by_hand, "", END, "", *tuning(choices)]
    return "\n".join(lines) + "\n"


LEGEND = (
    "*KS p*, *KS D*: truth ratios against the gold's; the row `second gold` is the noise floor. *forget*, *retain*, *neighbours*, *known*, *lands*: share of questions",
    "whose fact is answered. *fluency*: median probability of the written answer's tokens under the gold. *AUC*: membership, forget against never-trained people; 0.5 is no trace.",
    "*prefill*: share of forget facts that come back when the start of the answer is given. *relearned*: the same after 20 steps of fine-tuning on other rows: those of the other half of",
    "the forget people, other rows of the same people, or retain rows, whichever brings it back; *excess*: that less what the gold relearns so. *steps*: of training. *seconds*: to make the",
    "artifact and its trajectory, one thread.",
)


def budget(choices: dict[str, Choice]) -> list[str]:
    """The tuning budget in words."""
    differ = [name for name, choice in choices.items() if not choice.agrees]
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    return [
        f"**Tuning.** Every training method and edit that has something to choose had the same budget: four runs on the world of seed {SEED}, on which nothing is reported, judged on its",
        f"selection half without a gold. Full weights were tried at learning rates {rates}, adapters at five times these; the few that spend",
        "their runs on another number are in the table at the end. Guards had no such runs: ECO finds its strength on the selection half of the world it is used in, and what ULD, O3 and COCA train with was set",
        "by hand on the world of seed 7. The references",
        "are not tuned. Results are of the presets as they are. "
        + (
            f"Presets with another setting than the sweep's best: {', '.join(differ)}."
            if differ
            else "Each of them has the setting that the sweep found best."
        ),
    ]


def shown(column: str, figures: list[dict]) -> str:
    """Median, and the range over seeds; a dash where there is no number."""
    found = [figure["value"] for figure in figures if figure["value"] is not None]
    if not found:
        return "–"
    form = "{:.0f}" if column in ("steps", "seconds") else "{:.2f}"
    if column.endswith("ks_p") and min(found) < 0.001:
        form = "{:.1e}"
    low, middle, high = (form.format(f(found)) for f in (min, median, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def absent(rows: dict[tuple[str, str], Figures], failed: dict[str, list[str]]) -> list[str]:
    """Why there is a dash, by reason."""
    reasons: dict[str, tuple[list[str], list[str]]] = {}
    for (_, name), figures in rows.items():
        for column, heading in COLUMNS.items():
            whys = [figure["why"] for figure in figures.get(column, []) if figure["value"] is None]
            for why in whys[:1]:  # of the first seed: the counts in it differ from world to world
                columns, names = reasons.setdefault(why, ([], []))
                columns.append(heading)
                names.append(name)
    lines = [
        f"- {', '.join(dict.fromkeys(columns))} of {', '.join(dict.fromkeys(names))}: {why}."
        for why, (columns, names) in reasons.items()
    ]
    lines += [f"- {name}, {what}" for name, said in failed.items() for what in said]
    return ["Where there is no number:", "", *lines, ""] if lines else []


def tuning(choices: dict[str, Choice]) -> list[str]:
    """What was tried of each preset."""
    lines = [
        "## What was tried",
        "",
        "| method | tried | best | level there | preset |",
        "|---|---|---|---|---|",
    ]
    for name, choice in choices.items():
        what = choice.best.partition("=")[0]
        values = [setting.partition("=")[2] for setting in choice.trials]
        values = [
            value + (" (exploded)" if "failed" in found else "")
            for value, found in zip(values, choice.trials.values(), strict=True)
        ]
        lines.append(
            f"| {name} | {what}: {', '.join(values)} | {choice.best.partition('=')[2]} | {'yes' if choice.level else 'no'} "
            f"| {'has it' if choice.agrees else '**has another**'} |"
        )
    return lines if choices else []


if __name__ == "__main__":
    main()
