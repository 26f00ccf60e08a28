"""`expunge methods`: what there is."""

from typing import Annotated, Any

import typer

from expunge.cli.options import Json

MEMORY = {
    "ref_logp": "one number a row",
    "ref_tokens": "one number an answer token",
    "ref_logits": "one hidden state an answer token, and a copy of the output head",
    "ref_hidden": "one hidden state an answer token",
    "hidden": "with +layers, one hidden state a token",
}
"""What is kept of the starting model for a need; never a second model."""


def methods(
    name: Annotated[str | None, typer.Argument(help="Show one of them in full.")] = None,
    as_json: Json = False,
) -> None:
    """List all methods: name, kind, claim, axes, needs, paper."""
    from expunge.cli.show import output, print_json

    found = list_methods()
    if name:
        _show_one(name, found, as_json)
        return
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "kind", "claim", "needs", "what"):
        table.add_column(heading, no_wrap=heading in ("name", "kind"), overflow="fold")
    for entry in found:
        table.add_row(
            f"[bold]{entry['name']}[/bold]",
            entry["kind"],
            entry["claim"],
            ", ".join(entry["needs"]),
            entry["summary"],
        )
    output.print(table)
    from expunge.recipes import ALIASES, ELSEWHERE, preset_names

    output.print(
        f"\nJoin names with '+', one per axis: [bold]npo+nll+gru+lora[/bold]. Short for: {', '.join(f'{k} = {v}' for k, v in ALIASES.items())}."
    )
    output.print(f"Presets (--recipe): {', '.join(preset_names())}")
    for said in ELSEWHERE.values():
        output.print(f"Not a recipe: {said}")
    output.print("More about one: expunge methods NAME")


def list_methods() -> list[dict[str, Any]]:
    """Every value of every axis as plain facts. Reads the files' text; imports none of them."""
    from expunge import catalog
    from expunge.recipes import GUARD_AXES, TRAINING_AXES

    kinds = {"objective": "training", "action": "guard"}
    found = []
    for entry in catalog.all_entries(*TRAINING_AXES, *GUARD_AXES):
        claim = entry.claim
        axes = {entry.axis: entry.name}
        if entry.axis == "action":
            axes["detector"] = "union"
        found.append(
            {
                "name": entry.name,
                "kind": kinds.get(entry.axis, entry.axis),
                "claim": claim,
                "axes": axes,
                "needs": sorted(entry.declared.get("needs", ())),
                "cost": cost(entry.axis, set(entry.declared.get("needs", ()))),
                "paper": entry.paper,
                "summary": entry.summary.rstrip("."),
            }
        )
    return found


def cost(axis: str, needs: set[str]) -> dict[str, Any]:
    """What a value adds to an optimiser step, in passes over as many rows as there are forget rows in it, and to memory."""
    streams = {"objective": {"forget", "alternate"}, "retain": {"retain"}}.get(axis, set())
    passes = len(streams & needs)
    memory = [MEMORY[need] for need in MEMORY if need in needs]
    if axis == "selection":
        memory += (
            ["one gradient a weight for each of its needs, while it chooses"]
            if needs & {"forget", "retain"}
            else []
        )
        memory.append("a bit a weight, where it picks single weights")
    return {"forwards": passes, "backwards": passes, "memory": memory}


def _show_one(name: str, found: list[dict[str, Any]], as_json: bool) -> None:
    from expunge import catalog
    from expunge.cli.show import output, print_json
    from expunge.errors import ConfigError, did_you_mean

    entry = next((entry for entry in found if entry["name"] == name), None)
    if entry is None:
        names = [entry["name"] for entry in found]
        raise ConfigError(
            f"unknown method '{name}'.{did_you_mean(name, names)} There are: {', '.join(names)}."
        )
    axis = next(iter(entry["axes"]))
    cls = catalog.load(axis, name)
    settings = {
        field: {"default": info.default, "help": info.description or ""}
        for field, info in cls.model_fields.items()
    }
    if as_json:
        print_json({**entry, "doc": catalog.entries(axis)[name].doc, "settings": settings})
        return
    output.print(catalog.entries(axis)[name].doc, markup=False)
    output.print(f"\nAxis: {axis}. Claim: {entry['claim']}.")
    spent = entry["cost"]
    if spent["forwards"]:
        output.print(
            f"A step costs {spent['forwards']} forward and backward pass{'es' if spent['forwards'] > 1 else ''} for it."
        )
    if spent["memory"]:
        output.print(f"Kept in memory: {'; '.join(spent['memory'])}.")
    for field, facts in settings.items():
        output.print(f"  --set {axis}.{field}={facts['default']}   {facts['help']}", markup=False)
