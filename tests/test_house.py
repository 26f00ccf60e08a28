"""The rules of the house, held by the code itself."""

import ast
import re
from functools import partial
from pathlib import Path

import pytest

import expunge
from expunge import catalog
from expunge.attacks._attack import KINDS, SUITES, TIERS
from expunge.recipes import GUARD_AXES, RECIPES, TRAINING_AXES, read_recipe
from tests.methods.cases import CASES, ELSEWHERE

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "expunge"
LEVELS = [
    {"errors"},
    {"types"},
    {"config", "catalog"},
    {"recipes"},
    {"data", "artifacts", "metrics"},
    {"models", "ledger"},
    {"methods", "guards"},
    {"train"},
    {"attacks"},
    {"benchmarks", "reports"},
    {"run"},
    {"serve"},
    {"cli"},
]
"""Rooms by level: a file imports from lower levels and its own room."""
FORBIDDEN = {
    "artifacts": {"data", "metrics"},
    "metrics": {"data", "artifacts"},
    "methods": {"guards", "data", "models", "ledger", "artifacts", "metrics"},
    "guards": {"methods", "ledger"},
    "models": {"ledger"},
    "ledger": {"models", "artifacts", "metrics"},
    "attacks": {"methods", "guards", "train", "ledger"},
    "benchmarks": {"methods", "guards", "train", "reports", "ledger"},
    "reports": {"data", "models", "ledger", "metrics", "methods", "guards", "train", "attacks", "benchmarks"},
}
"""What a room may not import although its level would allow it."""
LONG: dict[str, str] = {"types.py": "the one home of what crosses rooms"}
"""Files over 400 lines, with the reason why."""
PAPERS = (
    "methods/examples",
    "methods/edits",
    "methods/objectives",
    "methods/weighting",
    "methods/retain",
    "methods/gradients",
    "methods/selection",
    "methods/adapters",
    "methods/procedures",
    "guards/detectors",
    "guards/actions",
)
BENCHMARK_SECTIONS = (
    "Question:",
    "Data:",
    "Protocol:",
    "Differs from the authors' code:",
    "Good:",
    "Bad:",
    "Published:",
)
SECTIONS = ("Needs:", "Differs from the paper:", "Differs from the authors' code:", "Fails when:")


def sources():
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path):
    """Modules of ours that a file imports, as dotted names without the package; those under TYPE_CHECKING left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("expunge"):
            names = (
                [node.module]
                if node.module != "expunge"
                else [f"expunge.{alias.name}" for alias in node.names]
            )
            yield from (name.removeprefix("expunge").lstrip(".") for name in names)
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("expunge.")
                for alias in node.names
                if alias.name.startswith("expunge.")
            )


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if name in rooms)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_from_its_room_and_lower_levels(path):
    own = room(path)
    if own == "__init__":
        return
    for name in imports(path):
        other = name.split(".")[0]
        if other in ("", own, "__version__"):
            continue
        assert level(other) < level(own), f"{path.name} ({own}) imports {name}"
        assert other not in FORBIDDEN.get(own, set()), (
            f"{own} may not import {other}: {path.name} imports {name}"
        )


@pytest.mark.parametrize("folder", PAPERS)
def test_a_papers_file_imports_no_other_papers_file(folder):
    for path in (SOURCE / folder).glob("[!_]*.py"):
        others = [
            name
            for name in imports(path)
            if any(name.startswith(paper.replace("/", ".") + ".") for paper in PAPERS)
            and not name.rpartition(".")[2].startswith("_")  # what several share is no paper
        ]
        assert not others, f"{path.name} imports {others}"


@pytest.mark.parametrize(
    "axis",
    [*TRAINING_AXES, *GUARD_AXES],
)
def test_every_method_says_what_it_needs_where_it_differs_and_when_it_fails(axis):
    for entry in catalog.entries(axis).values():
        for section in SECTIONS:
            assert section in entry.doc, f"{entry.name}: no '{section}' in its docstring"
        assert entry.summary
        assert "    " in entry.doc, f"{entry.name}: no formula"
        assert entry.paper or "no paper" in entry.doc, f"{entry.name}: neither paper nor 'no paper'"


def test_every_training_value_stands_in_the_matrix_of_generic_checks():
    used = {part for case in CASES for part in case.method.split("+")}
    for axis in ("objective", "weighting", "retain", "selection", "adapter"):
        assert set(catalog.entries(axis)) <= used | set(ELSEWHERE), axis
    assert "gru" in used


def test_every_method_has_a_preset():
    used = {
        catalog_name for path in RECIPES.glob("*.yaml") for catalog_name in _names(read_recipe(path.stem))
    }
    for axis in (*TRAINING_AXES, "action"):
        assert set(catalog.entries(axis)) <= used, axis


def _names(made):
    return {part["name"] for part in made.describe().values() if isinstance(part, dict) and "name" in part}


def test_no_room_stands_in_the_way_of_a_public_name():
    """`expunge.report` must stay the verb when a module that reports has been imported."""
    rooms = {path.stem for path in SOURCE.iterdir()}
    assert not rooms & set(expunge.__all__)
    assert all(getattr(expunge, name) for name in expunge.__all__)


def test_no_file_is_long_without_a_reason():
    for path in sources():
        lines = len(path.read_text().splitlines())
        assert lines <= 400 or str(path.relative_to(SOURCE)) in LONG, f"{path}: {lines} lines"


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    text = (ROOT / "README.md").read_text()
    tree = re.search(r"```\nsrc/expunge/\n(.*?)```", text, re.S).group(1)
    shown = {
        line.split()[0].rstrip("/")
        for line in tree.splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    }
    on_disk = {path.name for path in SOURCE.iterdir() if path.name not in ("__pycache__", "__init__.py")}
    assert shown == on_disk


def test_no_file_names_a_machines_path():
    for path in [
        *sources(),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/*"),
        *ROOT.glob("examples/*"),
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
    ]:
        if path.is_file():
            assert not re.search(r"(?<![\w.])/(home|root|work|Users|tmp|opt)/", path.read_text()), path


def test_public_names_resolve_lazily():
    import expunge

    for name in expunge.__all__:
        assert getattr(expunge, name)
    with pytest.raises(AttributeError):
        expunge.nothing  # noqa: B018


@pytest.mark.parametrize("name", catalog.entries("benchmark"))
def test_every_benchmark_says_its_question_protocol_deviations_and_published_figures(name):
    entry, cls = catalog.entries("benchmark")[name], catalog.load("benchmark", name)
    for section in BENCHMARK_SECTIONS:
        assert f"\n{section}" in entry.doc, f"{name}: no '{section}' in its docstring"
    assert cls.name == name
    assert cls.version >= 1
    assert cls.data_is
    assert entry.paper or "no paper" in entry.doc
    assert all(info.description for info in cls.Options.model_fields.values())
    for figure, heading, meaning in cls.columns:
        assert "/" in figure or figure == "model_utility"
        assert heading
        assert meaning


CATALOGUE = [f"A{number:02}" for number in range(31)] + [f"W{number}" for number in range(1, 10)]
"""What every audit has to have, by its number in the specification."""


def test_every_attack_says_its_construction_what_it_needs_and_when_it_fails():
    ids = {}
    for name, entry in catalog.entries("attack").items():
        cls = catalog.load("attack", name)
        for section in SECTIONS:
            assert f"\n{section}" in entry.doc, f"{name}: no '{section}' in its docstring"
        assert "\n    " in entry.doc, f"{name}: no construction"
        assert cls.tier in TIERS
        assert cls.suite in SUITES
        assert cls.kind in KINDS
        assert all(info.description for info in cls.model_fields.values()), name
        assert cls.id not in ids, f"{name} and {ids[cls.id]} have one number"
        ids[cls.id] = name
    assert not [
        number for number in CATALOGUE if not any(re.fullmatch(f"{number}[a-z]?", own) for own in ids)
    ]
    kinds = {
        cls.rwku
        for cls in map(partial(catalog.load, "attack"), catalog.entries("attack"))
        if getattr(cls, "rwku", "")
    }
    assert len(kinds) == 9, "RWKU has nine types"


def test_the_pages_of_methods_and_benchmarks_are_those_of_the_code():
    import runpy

    wanted = runpy.run_path(str(ROOT / "docs" / "make_pages.py"))["pages"]()
    for folder, pages in wanted.items():
        found = {path.name: path.read_text() for path in (ROOT / "docs" / folder).glob("*.md")}
        assert found == pages, "run: python docs/make_pages.py"
