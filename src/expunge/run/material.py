"""What an audit or a detector's test asks about: the rows of a benchmark, or of somebody's own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from expunge.attacks._case import Case, cases_of
from expunge.data.subjects import find_names
from expunge.errors import ConfigError, DataError
from expunge.run.auditing import Material
from expunge.types import Probe

if TYPE_CHECKING:
    from expunge.data.dataset import Dataset, Record

NEIGHBOURS = "neighbours"
"""The part of a benchmark that holds them; without one, its retain rows."""


def material_of(rows: Any, most: int = 400) -> Material:
    """Of a benchmark whose forget rows ask for facts, or of a Dataset. `most`: rows of each group. Raises ConfigError or DataError."""
    if hasattr(rows, "forget_probes"):
        return _of_benchmark(rows, most)
    if hasattr(rows, "forget"):
        return _of_files(rows, most)
    raise ConfigError(
        f"benchmark {rows.name}: an audit asks questions that have answers. Take pocket or tofu, or give --forget and --retain files of question-answer pairs."
    )


def _of_benchmark(benchmark: Any, most: int) -> Material:
    tasks, data = benchmark.tasks(), benchmark.dataset()
    retain = tasks[benchmark.roles.retain]
    names = data.subjects or find_names(data.forget, data.retain)
    try:
        known = benchmark.other_forget_probes()
    except DataError:  # everybody is asked for
        known = []
    return Material(
        cases_of(benchmark.forget_probes()[:most], retain, names),
        cases_of(known[:most], retain, names),
        cases_of(retain[:most], retain),
        cases_of(tasks.get(NEIGHBOURS, retain)[:most], retain),
        {**benchmark.settings, "most": most},
    )


def _of_files(data: Dataset, most: int) -> Material:
    if not data.forget:
        raise DataError("there are no forget rows to attack.")
    retain = [probe_of_record(record) for record in data.retain]
    cases = file_cases(data, retain)
    return Material(
        cases[:most],
        (),
        cases_of(retain[:most], retain),
        cases_of(retain[:most], retain),
        {"benchmark": "files", "data": data.fingerprint(), "most": most},
    )


def file_cases(data: Dataset, retain: Sequence[Probe]) -> list[Case]:
    """The forget rows of files, with the names that they are filed under."""
    names = data.subjects or find_names(data.forget, data.retain)
    forget = [probe_of_record(record) for record in data.forget]
    return [
        replace(case, aliases=tuple(name for name in (record.subject, *record.aliases) if name))
        for case, record in zip(cases_of(forget, retain, names), data.forget, strict=True)
    ]


def probe_of_record(record: Record) -> Probe:
    """A row as a question: a text is its own prompt, and somebody who is only named is asked about."""
    return Probe(
        record.id,
        record.question or record.text or f"Who is {record.subject}?",
        record.answer,
        paraphrased_answer=record.paraphrased_answer,
        perturbed_answer=record.perturbed_answer,
        subject=record.subject or record.group,
        value=record.key[0] if record.key and record.key[0] in record.answer else "",
    )
