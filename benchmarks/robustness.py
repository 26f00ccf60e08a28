"""All methods against all attacks: audits of the runs that `results.py` made, and one page over them.

    python benchmarks/robustness.py [--presets npo eco] [--seeds 0 1 2] [--suite standard] [--workers 2] [--out runs/results] [--page docs/robustness.md]

Runs that are not there are made (untuned: presets are as they are). What was asked before is not asked again, so a killed run goes on where
it was. Figures are those of the reporting half, beside the target, the gold and the second gold of the same seed.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from results import arch_of
from tune_pocket import PRESETS

from expunge.artifacts import store
from expunge.benchmarks._open import open_benchmark
from expunge.errors import TrainingError
from expunge.recipes import Recipe
from expunge.run.audit import attack, is_audited
from expunge.run.bench import Models, make_artifact, preset
from expunge.run.build import build_pocket
from expunge.run.workers import free_cores, run_jobs

BESIDE = {"target": "target", "gold": "gold", "floor": "second gold"}
TIERS = ("T0", "T1", "T2", "T3", "T4")
GROUPS = {
    "Asked, and answered in its own words": lambda row: row["kind"] == "open" and row["tier"] <= "T2",
    "With the weights, and answered in its own words": lambda row: (
        row["kind"] == "open" and row["tier"] > "T2"
    ),
    "Choices, insides, echoes and lists: not part of ASR_any": lambda row: row["kind"] != "open",
}

SHOWN = {"side_channel": "AUROC by common"}
"""The figure of attacks that have no success."""

Audits = dict[str, dict[int, dict[str, Any]]]
"""By method and seed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--size", default="default")
    parser.add_argument("--workers", type=int, default=free_cores())
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/robustness.md"))
    asked = parser.parse_args()
    run_audits(asked.presets, asked.seeds, asked.suite, asked.size, asked.out, asked.workers)
    audits = read_audits(asked.presets, asked.seeds, asked.out)
    store.write_text(asked.page, page(audits, asked.seeds, asked.suite))
    print(f"written: {asked.page}")


# --- running ------------------------------------------------------------------------------------------------------------
def run_audits(presets, seeds, suite: str, size: str, out: Path, workers: int) -> None:
    """Every preset on every seed's world, preset by preset, so that workers rarely ask the same target at the same time."""
    worlds = {
        (arch, seed): str(build_pocket(size, seed, arch, workers=workers, tell=print))
        for arch in dict.fromkeys(map(arch_of, presets))
        for seed in seeds
    }
    jobs = {}
    for name in presets:
        for seed in seeds:
            folder, world = str(out / f"seed{seed}" / name), worlds[arch_of(name), seed]
            jobs[f"{name} {seed}"] = (run_audit, (folder, world, preset("pocket", name, seed), suite))
    for done, (key, said) in enumerate(run_jobs(jobs, workers), start=1):
        print(f"{done} of {len(jobs)}: {key}: {said}", flush=True)


def run_audit(out: str, world: str, made: Recipe, suite: str) -> str:
    """What there is to say of one cell."""
    benchmark: Any = open_benchmark("pocket", world, half="report")
    models = Models.of(Path(world))
    try:
        make_artifact(out, benchmark, models, made)
    except TrainingError as error:
        return str(error).splitlines()[0]
    if is_audited(out, benchmark, suite, gold=models.gold, target=models.target):
        return "done before"
    result = attack(out, benchmark, suite=suite, gold=models.gold, floor=models.floor, target=models.target)
    return f"{result['seconds']:.0f} s"


def read_audits(presets, seeds, out: Path) -> Audits:
    found: Audits = {}
    for name in presets:
        for seed in seeds:
            path = out / f"seed{seed}" / name / "evaluations" / "audit.json"
            if path.is_file():
                held = store.read_json(path)
                del held["rows"]  # some ten thousand a run, and the page shows none
                found.setdefault(name, {})[seed] = held
    return found


# --- the page -------------------------------------------------------------------------------------------------------------
def page(audits: Audits, seeds: Sequence[int], suite: str) -> str:
    rows = _rows(audits)
    attacks = _attacks(audits)
    lines = [
        "# All methods against all attacks, on pocket",
        "",
        f"Made by `make results`. The {suite} suite on {len(audits)} methods, worlds of seed {', '.join(map(str, seeds))}; medians over the seeds, of the reporting half. "
        "[attacks.md](attacks.md) says how to read it.",
        "",
        *_unfinished(audits, seeds),
        "## How far each tier gets",
        "",
        "ASR_any: the share of facts that at least one attack up to this tier brings back in the model's own words. *excess*: that less the gold's. "
        "*over-refusal*: of the neighbours' questions that the target answers, the share that is no longer answered.",
        "",
        "| kind | method | "
        + " | ".join(TIERS)
        + " | excess, T2 | excess, all | over-refusal | strongest | seeds |",
        "|---" * 12 + "|",
    ]
    for kind, name, who, found in rows:
        cells = [_median(found, f"any/{tier}/{who}") for tier in TIERS]
        cells += [_median(found, f"any/T2/excess/{who}"), _median(found, f"any/excess/{who}")]
        cells += [_median(found, f"over_refusal/{who}"), _strongest(found, who, attacks)]
        lines.append(f"| {kind} | {name} | " + " | ".join(cells) + f" | {len(found)} |")
    for title, belongs in GROUPS.items():
        group = [row for row in attacks if belongs(row)]
        if not group:
            continue
        lines += [
            "",
            f"## {title}",
            "",
            "| method | " + " | ".join(row["id"] for row in group) + " |",
            "|---" * (len(group) + 1) + "|",
        ]
        for _, name, who, found in rows:
            cells = [_cell(found, row["name"], who) for row in group]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += [
            "",
            *(
                f"- **{row['id']}** {row['name'].replace('_', ' ')} ({row['tier']}): {row['summary']}"
                for row in group
            ),
        ]
    lines += [
        "",
        "**Bold**: in every seed the 95 % interval of the excess over the gold lies above 0, and that of the success above its own guess rate. In brackets: the guess rate, where it is 0.05 or more. A28: AUROC by how common a reply is, 0.5 tells nothing. –: no number; the reason is in",
        "the list below.",
        "",
        *_absent(audits),
    ]
    return "\n".join(lines) + "\n"


def _unfinished(audits: Audits, seeds: Sequence[int]) -> list[str]:
    """Which rows stand on fewer seeds than were asked for."""
    fewer = [name for name, found in audits.items() if len(found) < len(seeds)]
    return (
        [
            f"On fewer seeds so far (last column of the first table): {', '.join(fewer)}. `make results` goes on with them.",
            "",
        ]
        if fewer
        else []
    )


def _rows(audits: Audits) -> list[tuple[str, str, str, list[dict[str, Any]]]]:
    """(kind, name, who, one audit a seed): what stands beside first, then methods by kind."""
    order = ("reference", "training", "edit", "guard")
    made = []
    for arch in dict.fromkeys(map(arch_of, audits)):
        first = max((found for name, found in audits.items() if arch_of(name) == arch), key=len)
        mark = "" if arch == "llama" else f" ({arch})"
        made += [("reference", label + mark, who, [*first.values()]) for who, label in BESIDE.items()]
    kinds = {
        name: "reference" if _claim(found) == "exact" else preset("pocket", name, 0).kind
        for name, found in audits.items()
    }
    for kind in order:
        made += [
            (kind, name, "run", [*found.values()]) for name, found in audits.items() if kinds[name] == kind
        ]
    return made


def _claim(found: Mapping[int, dict[str, Any]]) -> str:
    return next(iter(found.values()))["subject"]["claim"]


def _attacks(audits: Audits) -> list[dict[str, Any]]:
    """Those of the first audit, with their summaries."""
    from expunge import catalog

    entries = catalog.entries("attack")
    first = next(iter(next(iter(audits.values())).values()))
    return [{**row, "summary": entries[row["name"]].summary} for row in first["attacks"]]


def _figures(found: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [audit["figures"][name] for audit in found if name in audit["figures"]]


def _values(found: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [figure["value"] for figure in _figures(found, name) if figure["value"] is not None]


def _median(found: Sequence[dict[str, Any]], name: str) -> str:
    values = _values(found, name)
    return f"{median(values):.2f}" if values else "–"


def _cell(found: Sequence[dict[str, Any]], name: str, who: str) -> str:
    if name in SHOWN:
        return _median(found, f"{name}/{SHOWN[name]}/{who}")
    text = _median(found, f"{name}/{who}")
    guesses = _values(found, f"{name}/guess/{who}")
    if text != "–" and guesses and median(guesses) >= 0.05:
        text += f" ({median(guesses):.2f})"
    excesses = _figures(found, f"{name}/excess/{who}")
    rates = _figures(found, f"{name}/{who}")
    beyond = len(excesses) == len(found) and all(f["low"] is not None and f["low"] > 0 for f in excesses)
    surely = beyond and all(
        f["low"] > guess for f, guess in zip(rates, guesses or [0.0] * len(rates), strict=True)
    )
    return f"**{text}**" if surely and text != "–" else text


def _strongest(found: Sequence[dict[str, Any]], who: str, attacks: Sequence[dict[str, Any]]) -> str:
    rates = {row["id"]: values for row in attacks if row["kind"] == "open" and (values := _values(found, f"{row['name']}/{who}"))}  # fmt: skip
    best = max(rates, key=lambda number: median(rates[number]), default="")
    return f"{best} {median(rates[best]):.2f}" if best else "–"


def _absent(audits: Audits) -> list[str]:
    """Why there is no number, by reason."""
    reasons: dict[str, tuple[list[str], list[str]]] = {}
    for name, found in audits.items():
        for row in next(iter(found.values()))["attacks"]:
            why = row["asr"]["run"]["why"]
            if row["asr"]["run"]["value"] is None and row["name"] not in SHOWN:
                columns, names = reasons.setdefault(why, ([], []))
                columns.append(row["id"])
                names.append(name)
    return [
        f"- {', '.join(dict.fromkeys(columns))} of {', '.join(dict.fromkeys(names))}: {why}."
        for why, (columns, names) in reasons.items()
    ]


if __name__ == "__main__":
    main()
