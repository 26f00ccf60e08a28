"""`expunge guard`: fit a guard, show what is in one, and test what its detector sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli import unlearn
from expunge.cli.options import Authors, Data, Device, Half, Json, Split

if TYPE_CHECKING:
    from expunge.run.detection import Counted

app = typer.Typer(
    help="Guards: a detector and an action in front of a model. They suppress; nothing is erased.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Run = Annotated[Path, typer.Argument(help="A run folder that holds a guard.")]


@app.command()
def fit(
    model: unlearn.Model,
    forget: unlearn.Forget,
    out: unlearn.Out,
    method: Annotated[
        str | None, typer.Option("--method", help="What happens to prompts in scope, such as eco or refuse.")
    ] = None,
    recipe: unlearn.Recipes = None,
    retain: unlearn.Retain = None,
    refusals: unlearn.Refusals = None,
    writer: unlearn.Writer = "borrow",
    mapping: unlearn.Mapping = None,
    settings: unlearn.Settings = None,
    allow_overlap: unlearn.Overlap = False,
    template: unlearn.Prompts = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fit a guard for a model: `expunge unlearn`, for guards only."""
    from expunge.errors import ConfigError

    made = unlearn.chosen(method, recipe, settings)
    if made.kind != "guard":
        raise ConfigError(
            f"method '{made.method}' is no guard: it changes the weights. Use `expunge unlearn`, or name a guard, for example --method eco."
        )
    unlearn.make_run(
        model, made, out, forget, retain, refusals=refusals, writer=writer, mapping=mapping,
        allow_overlap=allow_overlap, template=template, device=device, as_json=as_json,
    )  # fmt: skip


@app.command("show")
def show_guard(run: Run, as_json: Json = False) -> None:
    """What is in a guard: detector, action, what they promise, and how private the folder is. No model is loaded."""
    from expunge.cli.show import output, print_json
    from expunge.reports.words import calibration_sentence

    facts = guard_facts(run)
    if as_json:
        print_json(facts)
        return
    detector, action = facts["detector"], facts["action"]
    lines = [
        f"{run}: a guard by {facts['method']}, made {facts['created']} on {facts['data']['forget']} forget and {facts['data']['retain']} retain rows.",
        f"Claim: {facts['claim']}. {facts['claim_means']}",
        f"Detector: {_with_settings(detector, 'parts')}",
        *(
            f"  part {_with_settings(part, 'alpha', 'calibration_share')}" for part in detector["parts"]
        ),  # the whole is calibrated, not the parts
        f"  {calibration_sentence(detector['calibration']).removeprefix('Detector: ')}",
        f"Action: {_with_settings(action)}",
    ]
    if action["strength"]:
        lines.append(f"  strength {action['strength']:g}")
    if facts["names_found_in_text"]:
        lines.append(f"Names found in the text: {', '.join(facts['names_found_in_text'])}")
    lines += [
        f"Base model: {facts['base']['name']} ({facts['base']['sha256'][:16]}). The guard works in front of this one only.",
        f"Private: {facts['folder']} ({facts['bytes'] / 1024:.1f} KiB) holds the target's names and what the detector learnt of the rows, in the clear. Guard it as the request itself.",
    ]
    for line in lines:
        output.print(line, markup=False, soft_wrap=True)


@app.command("test")
def try_out(
    run: Run,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt to decide on. May be repeated.")
    ] = None,
    answer: Annotated[
        bool, typer.Option("--answer", help="Answer each prompt too, without and with the guard.")
    ] = False,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help="Count misses and false alarms on pocket or tofu.")
    ] = None,
    data: Data = None,
    half: Half = None,
    split: Split = None,
    authors: Authors = None,
    forget: Annotated[
        Path | None, typer.Option("--forget", help="Count them on files instead: what must go.")
    ] = None,
    retain: unlearn.Retain = None,
    mapping: unlearn.Mapping = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What the detector sees: its decision on single prompts, or misses and false alarms on many, rewritten in many ways."""
    from expunge.cli.show import print_json, progress

    rows = _rows(prompts, answer, benchmark, data, half, split, authors, forget, retain, mapping)
    read_guard_manifest(run)
    from expunge.run import load
    from expunge.run.detection import decisions, detector_table

    guard: Any = load(run, device=device)
    decided = decisions(guard.detection, prompts or [])
    if answer:
        _answer(guard, decided)
    table = []
    if rows is not None:
        with progress() as tell:
            table = detector_table(guard, rows, progress=tell)
    if as_json:
        print_json(
            {"run": str(run), "decisions": decided, "table": [counted.describe() for counted in table]}
        )
        return
    for decision in decided:
        _print_decision(decision)
    if table:
        _print_table(table, f"{run}: what the detector misses, and what it flags wrongly")


# --- what is in a guard -----------------------------------------------------------------------------------------------
def read_guard_manifest(run: Path) -> dict[str, Any]:
    """Raises ModelError when the folder is no run, or a run without a guard."""
    from expunge.artifacts.manifest import read_manifest
    from expunge.errors import ModelError

    manifest = read_manifest(run)
    if manifest["kind"] != "guard":
        held = {"weights": "new weights", "adapter": "an adapter"}[manifest["kind"]]
        raise ModelError(
            f"{run}: holds {held} made by {manifest['method']}, and no guard.\n"
            f"Measure it with `expunge evaluate {run}`, or fit a guard with `expunge guard fit`."
        )
    return manifest


def guard_facts(run: Path) -> dict[str, Any]:
    """What a run folder's manifest and guard say, as plain values."""
    from expunge.guards.state import read_state

    manifest = read_guard_manifest(run)
    folder = run / "guard"
    state = read_state(folder)
    detector, action = state["detector"], manifest["recipe"]["action"]
    inner = detector["state"].values() if isinstance(detector["state"], dict) else ()
    parts = [part["detection"] for part in inner if isinstance(part, dict) and "detection" in part]
    return {
        "run": str(run),
        **{name: manifest[name] for name in ("method", "claim", "claim_means", "created", "data", "base")},
        "names_found_in_text": manifest["names_found_in_text"],
        "detector": {
            "name": detector["name"],
            "settings": detector["settings"],
            "parts": [{"name": part["name"], "settings": part["settings"]} for part in parts],
            "calibration": detector["calibration"],
        },
        "action": {
            "name": action["name"],
            "settings": {key: value for key, value in action.items() if key != "name"},
            "strength": manifest["guard"]["strength"],
        },
        "folder": str(folder),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def _with_settings(part: dict[str, Any], *without: str) -> str:
    """Name and settings, but for those that say nothing here."""
    settings = ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in part["settings"].items()
        if key not in without and value is not None
    )
    return f"{part['name']} ({settings})" if settings else part["name"]


# --- testing one ------------------------------------------------------------------------------------------------------
def _rows(
    prompts: list[str] | None,
    answer: bool,
    benchmark: str | None,
    data: str | None,
    half: str | None,
    split: str | None,
    authors: int | None,
    forget: Path | None,
    retain: Path | None,
    mapping: list[str] | None,
) -> Any:
    """The benchmark or the files to count on, or None. Raises ConfigError where the options do not say what to test."""
    from expunge.cli.options import open_benchmark
    from expunge.data.dataset import Dataset
    from expunge.errors import ConfigError

    for prompt in prompts or []:
        if not prompt.strip():
            raise ConfigError("--prompt: it is empty. Give a text, for example --prompt 'Who is Mara Olen?'.")
    if benchmark and (forget or retain):
        raise ConfigError("give either --benchmark or files (--forget, --retain), not both.")
    if retain and not forget:
        raise ConfigError("--retain alone tells nothing of what is in scope. Add --forget FILE.")
    if not (prompts or benchmark or forget):
        raise ConfigError(
            "nothing to test. Give --prompt TEXT, or --benchmark pocket --data FOLDER, or --forget FILE --retain FILE."
        )
    if answer and not prompts:
        raise ConfigError("--answer answers the prompts given with --prompt, and there are none.")
    if benchmark:
        return open_benchmark(benchmark, data, half=half, split=split, authors=authors)
    return Dataset.from_files(forget, retain, mapping=unlearn.pairs(mapping)) if forget else None


def _answer(guard: Any, decided: list[dict[str, Any]]) -> None:
    """Add what the model says without the guard and with it."""
    from expunge.types import GenerationParams, Prompt

    asked = [Prompt.ask(decision["prompt"]) for decision in decided]
    for who, model in (("plain", guard.model), ("guarded", guard)):
        for decision, said in zip(decided, model.generate(asked, GenerationParams()), strict=True):
            decision[who] = said[0].text


def _print_decision(decision: dict[str, Any]) -> None:
    from expunge.cli.show import output

    def score(value: float | None) -> str:
        return "cannot tell" if value is None else f"{value:.4g}"

    verdict = "in scope" if decision["in_scope"] else "not in scope"
    said = [
        decision["prompt"],
        f"  {verdict}: score {score(decision['score'])}, threshold {decision['threshold']:.4g}",
        *(
            f"    {name}: {score(part['score'])}{', saw it' if part['in_scope'] else ''}"
            for name, part in decision["parts"].items()
        ),
        *(f"  {who}: {decision[who] or '(empty)'}" for who in ("plain", "guarded") if who in decision),
    ]
    for line in said:
        output.print(line, markup=False, soft_wrap=True)


def _print_table(table: list[Counted], title: str) -> None:
    from rich.table import Table

    from expunge.cli.show import output
    from expunge.run.detection import FORGET, RETAIN

    by_rewrite: dict[str, dict[str, Counted]] = {}
    others = []
    for counted in table:
        if counted.rows in (FORGET, RETAIN):
            by_rewrite.setdefault(counted.rewrite, {})[counted.rows] = counted
        else:
            others.append(counted)
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("asked")
    for heading in ("missed", "rate", "95 %", "false alarms", "rate", "95 %"):
        shown.add_column(heading, justify="right")
    for name, pair in by_rewrite.items():
        if any(counted.n for counted in pair.values()):
            shown.add_row(name, *_cells(pair[FORGET]), *_cells(pair[RETAIN]))
    for counted in others:
        shown.add_row(counted.rows, "", "", "", *_cells(counted))
    output.print(shown)
    output.print(
        "Rows that a rewrite cannot be made of are left out. No error in n prompts shows a rate below about 4/n: 1.3 % needs 300.",
        markup=False,
    )


def _cells(counted: Counted) -> tuple[str, str, str]:
    if counted.rate is None or counted.interval is None:
        return "-", "", ""
    low, high = counted.interval
    return f"{counted.wrong} of {counted.n}", f"{counted.rate:.3f}", f"{low:.3f} – {high:.3f}"
