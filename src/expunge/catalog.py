"""From a name to the class that carries it. A file `methods/objectives/npo.py` is the objective 'npo': nothing is registered.

Listing reads the files' text and imports none of them. A dotted path (`my_package.module:Class`) stands for a name anywhere.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from expunge.errors import ConfigError, did_you_mean

AXES = {
    "data": "methods/examples",
    "objective": "methods/objectives",
    "weighting": "methods/weighting",
    "retain": "methods/retain",
    "gradient": "methods/gradients",
    "selection": "methods/selection",
    "adapter": "methods/adapters",
    "edit": "methods/edits",
    "procedure": "methods/procedures",
    "detector": "guards/detectors",
    "action": "guards/actions",
    "attack": "attacks",
    "benchmark": "benchmarks",
}
_ROOT = Path(__file__).parent


class Entry(NamedTuple):
    """One value of one axis, as its file's text declares it."""

    axis: str
    name: str
    summary: str
    """First line of the docstring."""
    paper: str
    """What stands in brackets in the first line: authors, year, identifier."""
    doc: str
    declared: dict[str, Any]
    """Literal class attributes of the file's main class: needs, claim, version ..."""

    @property
    def claim(self) -> str:
        """What may be claimed for what it makes."""
        usual = "suppression" if self.axis in ("action", "detector") else "approximate"
        return self.declared.get("claim", usual)


@cache
def entries(axis: str) -> dict[str, Entry]:
    """All values of an axis by name, read without importing them."""
    return {
        path.stem: _read(axis, path)
        for path in sorted((_ROOT / AXES[axis]).glob("*.py"))
        if not path.stem.startswith("_")
    }


def all_entries(*axes: str) -> Iterator[Entry]:
    for axis in axes or AXES:
        yield from entries(axis).values()


def load(axis: str, name: str) -> Any:
    """The class behind a name. Raises ConfigError with the nearest name when there is none."""
    if ":" in name:
        return _load_dotted(axis, name)
    if name not in entries(axis):
        raise ConfigError(
            f"unknown {axis} '{name}'.{did_you_mean(name, entries(axis))}\n"
            f"There are: {', '.join(entries(axis))}."
            + ("" if axis in ("benchmark", "attack") else " See `expunge methods`.")
        )
    module = import_module("expunge." + AXES[axis].replace("/", ".") + "." + name)
    return getattr(module, _class_name(name, vars(module)))


def fitted(settings: type) -> Any:
    """The class of fitted objects beside a guard's settings class: `Fitted` and its name."""
    return getattr(import_module(settings.__module__), "Fitted" + settings.__name__)


def _load_dotted(axis: str, path: str) -> Any:
    module_name, _, class_name = path.partition(":")
    try:
        return getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{axis} '{path}': {error}. Expected importable.module:Class.") from None


def _class_name(stem: str, names: dict[str, Any]) -> str:
    """`npo` -> `NPO`, `key_tokens` -> `KeyTokens`: the file's name without underscores, in whatever capitals."""
    flat = stem.replace("_", "")
    return next(name for name in names if name.lower() == flat and not name.islower())


def _read(axis: str, path: Path) -> Entry:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    doc = ast.get_docstring(tree) or ""
    summary = doc.split("\n", 1)[0]
    paper = re.search(r"\(([^()]*\d{4}[^()]*)\)", summary)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    declared = {}
    for node in classes[_class_name(path.stem, classes)].body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = node.value
            if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "frozenset":
                value = value.args[0] if value.args else ast.Tuple([], ast.Load())
            with suppress(ValueError):
                declared[getattr(target, "id", "")] = ast.literal_eval(value)
    return Entry(axis, path.stem, summary, paper.group(1) if paper else "", doc, declared)
