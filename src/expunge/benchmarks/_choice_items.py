"""Questions of multiple choice: from files in the layout of WMDP and MMLU, from the hub, or made of evaluation rows."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge.benchmarks._data import SUFFIXES, read_file, read_hub, require
from expunge.benchmarks._open import open_origin
from expunge.errors import DataError, did_you_mean
from expunge.types import Probe

LETTERS = "ABCDEFGHIJ"
SPLITS = ("dev", "test")
WRONG = 3
"""Wrong options of a question that is made from a probe."""


class Item(NamedTuple):
    task: str
    """The subject as the files name it."""
    question: str
    choices: tuple[str, ...]
    answer: int
    split: str = "test"
    cluster: str = ""
    """Whom the question is about: questions about one person are not independent."""
    lead: str = ""
    """How an answer begins up to its option, where the options were cut out of sentences."""

    @property
    def block(self) -> str:
        """The question as the harness shows it, up to where the letter stands."""
        options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=False)]
        return "\n".join([self.question.strip(), *options, "Answer:"])

    @property
    def bare(self) -> str:
        """The question without its options, up to where the option's text stands."""
        return f"Question: {self.question.strip()}\nAnswer:" + (f" {self.lead}" if self.lead else "")


def read_items(data: str | Path, hub: Sequence[tuple[str, str]]) -> list[Item]:
    """Every question of a file, of all tables in a folder, of a pocket world or TOFU, or of a hub data set. Raises DataError."""
    path = Path(data)
    if any((path / name).is_file() for name in ("world.json", "real_authors.jsonl")) or str(data).endswith(
        "/TOFU"
    ):
        return list(_from_probes(data))
    if path.is_file():
        return _items(read_file(path), path.stem)
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
        if not files:
            raise DataError(
                f"{path}: no file of questions ({', '.join(SUFFIXES)}). A row has question, choices and answer."
            )
        return [item for file in files for item in _items(read_file(file), file.stem)]
    return [
        item
        for config, split in hub
        for item in _items(read_hub(data, config, split, _table(config, split)), _table(config, split))
    ]


def _table(config: str, split: str) -> str:
    return split if config == "all" else config


def _items(rows: Iterable[tuple[str, dict[str, Any]]], table: str) -> list[Item]:
    """Checked questions of one table: its name is their split or subject where they do not say."""
    split = table if table in SPLITS else "test"
    task = "questions" if table in SPLITS else re.sub(r"^wmdp[-_]", "", table)
    found = []
    for where, row in rows:
        require([(where, row)], {"question": str, "choices": list, "answer": int})
        choices, answer = row["choices"], row["answer"]
        if not 2 <= len(choices) <= len(LETTERS) or not all(isinstance(choice, str) for choice in choices):
            raise DataError(f"{where}: field 'choices' is {choices!r}; expected 2 to {len(LETTERS)} texts.")
        if not all(choice.strip() for choice in choices):
            raise DataError(f"{where}: field 'choices' is {choices!r}; expected no empty text.")
        if (
            len({choice.strip() for choice in choices}) < 2
        ):  # a few published questions repeat one option, and stay
            raise DataError(f"{where}: field 'choices' is {choices!r}; expected options that differ.")
        if not 0 <= answer < len(choices):
            raise DataError(
                f"{where}: field 'answer' is {answer}; expected the place of the right choice, 0 to {len(choices) - 1}."
            )
        item = Item(
            row.get("subject") or task, row["question"], tuple(choices), answer, row.get("split", split)
        )
        if not isinstance(item.task, str):
            raise DataError(f"{where}: field 'subject' is {item.task!r}; expected text.")
        if item.split not in SPLITS:
            raise DataError(
                f"{where}: field 'split' is {item.split!r}; expected dev (shown before questions) or test (asked)."
            )
        found.append(item)
    return found


def _from_probes(data: str | Path) -> Iterator[Item]:
    """Questions from evaluation rows whose answers come down to a short value, the right one among up to WRONG others, in an order that
    depends on the row alone. TOFU's real authors and world facts are such values; a pocket world's are cut out of their sentences.
    """
    for task, probes in open_origin(data).tasks().items():
        for place, probe in enumerate(probes):
            wrong = _wrong_values(probe) if probe.value else probe.perturbed_answer
            short = probe.value or (probe.answer if task in ("real_authors", "world_facts") else "")
            if not short or not wrong:
                continue
            lead = probe.answer.partition(short)[0].strip() if probe.value else ""
            item = Item(task, probe.question, (short, *wrong[:WRONG]), 0, "test", probe.subject, lead)
            yield shuffled(item, 0, place)


def _wrong_values(probe: Probe) -> tuple[str, ...]:
    """What stands in the wrong answers where the right one has its value."""
    before, _, after = probe.right_answer.partition(probe.value)
    return tuple(
        wrong[len(before) : len(wrong) - len(after)]
        for wrong in probe.perturbed_answer
        if wrong.startswith(before) and wrong.endswith(after)
    )


def shuffled(item: Item, seed: int, place: int) -> Item:
    """The same question with its options in an order that depends on seed, place and question."""
    order = list(range(len(item.choices)))
    random.Random(f"{seed}/{place}/{item.question}").shuffle(order)
    return item._replace(choices=tuple(item.choices[i] for i in order), answer=order.index(item.answer))


def of_subjects(items: list[Item], subjects: Sequence[str]) -> list[Item]:
    """Those of the named subjects, all where none is named. Raises DataError for a subject that there is not."""
    known = list(dict.fromkeys(item.task for item in items))
    for subject in subjects:
        if subject not in known:
            raise DataError(
                f"--set subjects: no subject '{subject}'.{did_you_mean(subject, known)} There are {', '.join(known)}."
            )
    return [item for item in items if not subjects or item.task in subjects]


def first_rows(items: list[Item], most: int | None) -> list[Item]:
    """Every dev question, and the first so many test questions of each subject."""
    seen: dict[str, int] = {}
    kept = []
    for item in items:
        seen[item.task] = seen.get(item.task, 0) + (item.split == "test")
        if most is None or item.split == "dev" or seen[item.task] <= most:
            kept.append(item)
    return kept
