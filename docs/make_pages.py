"""Write docs/methods, docs/benchmarks and docs/attacks: one page each, from the docstring of its file, and an index.

    python docs/make_pages.py

A test holds that the pages are those of the code; run this after changing a docstring.
"""

import ast
from pathlib import Path

from expunge import catalog
from expunge.attacks._attack import KINDS
from expunge.recipes import GUARD_AXES, TRAINING_AXES, catalog_name, preset_names, read_recipe
from expunge.run.choosing import attack_names

DOCS = Path(__file__).parent
SECTIONS = (
    "Needs",
    "Differs from the paper",
    "Differs from the authors' code",
    "Fails when",
    "Question",
    "Data",
    "Protocol",
    "Good",
    "Bad",
    "Published",
)


def pages() -> dict[str, dict[str, str]]:
    """Folder to file name to text, of all pages."""
    return {"methods": method_pages(), "benchmarks": benchmark_pages(), "attacks": attack_pages()}


def benchmark_pages() -> dict[str, str]:
    found = {}
    rows = ["# Benchmarks", "", "| name | what | data | page |", "|---|---|---|---|"]
    for entry in catalog.entries("benchmark").values():
        cls = catalog.load("benchmark", entry.name)
        text = [
            f"# {entry.name}",
            "",
            *_paragraphs(entry.doc),
            "",
            f"`--data`: {cls.data_is}. Version {cls.version}.",
        ]
        if cls.Options.model_fields:
            text += ["", "| option | default | meaning |", "|---|---|---|", *_options(cls.Options)]
        if cls.columns:
            text += ["", "| figure | heading | meaning |", "|---|---|---|"]
            text += [f"| `{name}` | {heading} | {meaning} |" for name, heading, meaning in cls.columns]
        found[f"{entry.name}.md"] = "\n".join(text) + "\n"
        rows.append(
            f"| `{entry.name}` | {entry.summary.rstrip('.')} | {cls.data_is} | [{entry.name}.md]({entry.name}.md) |"
        )
    found["README.md"] = "\n".join(rows) + "\n"
    return found


def attack_pages() -> dict[str, str]:
    found = {}
    rows = [
        "# Attacks",
        "",
        "[How to read an audit](../attacks.md). Suites are nested: quick, standard, full.",
        "",
    ]
    rows += ["| number | name | tier | suite | a hit | what | page |", "|---|---|---|---|---|---|---|"]
    for name in attack_names():
        cls, entry = catalog.load("attack", name), catalog.entries("attack")[name]
        facts = f"Number: {cls.id}. Tier: {cls.tier}. Suite: {cls.suite}. A hit: {KINDS[cls.kind]}. Version {cls.version}."
        if cls.agree:
            facts += f" At least {cls.agree:g} of a fact's trials have to hit."
        if getattr(cls, "rwku", ""):
            facts += f" RWKU's type: {cls.rwku}."
        text = [f"# {name}", "", *_paragraphs(entry.doc), "", facts]
        if cls.model_fields:
            text += ["", "| setting | default | meaning |", "|---|---|---|", *_options(cls, f"{name}.")]
        found[f"{name}.md"] = "\n".join(text) + "\n"
        rows.append(
            f"| {cls.id} | `{name}` | {cls.tier} | {cls.suite} | {cls.kind} | {entry.summary.rstrip('.')} | [{name}.md]({name}.md) |"
        )
    found["README.md"] = (
        "\n".join([*rows, "", *(f"- **{kind}**: {what}." for kind, what in KINDS.items())]) + "\n"
    )
    return found


def _options(settings, prefix: str = "") -> list[str]:
    return [
        f"| `{prefix}{field}` | {info.default if not info.is_required() else 'required'} | {(info.description or '').replace('|', '/')} |"
        for field, info in settings.model_fields.items()
    ]


def method_pages() -> dict[str, str]:
    found = {}
    rows = ["# Methods", "", "| name | axis | what | page |", "|---|---|---|---|"]
    for entry in catalog.all_entries(*TRAINING_AXES, *GUARD_AXES):
        name = f"{entry.axis}-{entry.name}.md"
        cls = catalog.load(entry.axis, entry.name)
        settings = _options(cls, f"{entry.axis}.")
        presets = [preset for preset in preset_names() if _uses(preset, entry.axis, entry.name)]
        text = [
            f"# {entry.name}",
            "",
            *_paragraphs(entry.doc),
            "",
            f"Axis: {entry.axis}. Claim: {entry.claim}.",
        ]
        if settings:
            text += ["", "| setting | default | meaning |", "|---|---|---|", *settings]
        if presets:
            text += ["", f"Presets: {', '.join(f'`{preset}`' for preset in presets)}"]
        found[name] = "\n".join(text) + "\n"
        rows.append(f"| `{entry.name}` | {entry.axis} | {entry.summary.rstrip('.')} | [{name}]({name}) |")
    for path in sorted((DOCS.parent / "examples").glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name = f"example-{path.stem}.md"
        found[name] = "\n".join([f"# {path.stem}", "", *_paragraphs(doc)]) + "\n"
        rows.append(
            f"| `{path.stem}` | none: an example beside the package | {doc.splitlines()[0].rstrip('.')} | [{name}]({name}) |"
        )
    found["README.md"] = "\n".join(rows) + "\n"
    return found


def _paragraphs(doc: str) -> list[str]:
    """The docstring as Markdown: what is indented is code, each section a paragraph of its own."""
    lines = []
    for line in doc.strip().splitlines():
        if line.split(":")[0] in SECTIONS and lines[-1]:
            lines.append("")
        lines.append(line)
    return lines


def _uses(preset: str, axis: str, name: str) -> bool:
    """Whether a preset takes a value that is worth saying: not one that nearly all of them take."""
    value = read_recipe(preset).axes.get(axis)
    return name not in ("sum", "plain", "raw") and value is not None and catalog_name(value) == name


if __name__ == "__main__":
    for folder, wanted in pages().items():
        (DOCS / folder).mkdir(exist_ok=True)
        for old in {path.name for path in (DOCS / folder).glob("*.md")} - set(wanted):
            (DOCS / folder / old).unlink()
        for name, text in wanted.items():
            (DOCS / folder / name).write_text(text, encoding="utf-8")
        print(f"{len(wanted)} pages in {DOCS / folder}")
