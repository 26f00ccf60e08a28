"""`expunge benchmarks`: what can be measured, and on what data."""

from typing import Annotated, Any

import typer

from expunge.cli.options import Json


def benchmarks(
    name: Annotated[str | None, typer.Argument(help="Show one of them in full.")] = None,
    as_json: Json = False,
) -> None:
    """List all benchmarks: the question each answers, its data and its paper."""
    from expunge import catalog
    from expunge.cli.show import output, print_json

    found = [_facts(entry) for entry in catalog.entries("benchmark").values()]
    if name:
        _show_one(name, as_json)
        return
    if as_json:
        print_json(found)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what", "--data"):
        table.add_column(heading, no_wrap=heading == "name", overflow="fold")
    for entry in found:
        table.add_row(f"[bold]{entry['name']}[/bold]", entry["summary"], entry["data"])
    output.print(table)
    output.print(
        "\nMeasure:  expunge evaluate RUN --benchmark NAME --data ...      More about one: expunge benchmarks NAME"
    )


def _facts(entry: Any) -> dict[str, Any]:
    """Read from the file's text; nothing is imported."""
    return {
        "name": entry.name,
        "summary": entry.summary.rstrip("."),
        "paper": entry.paper,
        "data": entry.declared.get("data_is", ""),
        "version": entry.declared.get("version"),
    }


def _show_one(name: str, as_json: bool) -> None:
    from expunge import catalog
    from expunge.cli.show import output, print_json

    cls = catalog.load("benchmark", name)
    entry = catalog.entries("benchmark")[name]
    options = {
        field: {"default": info.default, "help": info.description or ""}
        for field, info in cls.Options.model_fields.items()
    }
    facts = _facts(entry) | {"data": cls.data_is, "version": cls.version}
    if as_json:
        print_json({**facts, "doc": entry.doc, "options": options, "columns": cls.columns})
        return
    output.print(entry.doc, markup=False)
    output.print(f"\n--data: {cls.data_is}.", markup=False)
    for field, option in options.items():
        output.print(f"  --set {field}={option['default']}   {option['help']}", markup=False)
