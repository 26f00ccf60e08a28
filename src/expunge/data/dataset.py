"""Removal requests and their companions, read from JSONL, JSON, CSV or Parquet in three shapes: pairs, texts, subjects."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.errors import DataError
from expunge.types import Example, Probe, Prompt

Shape = Literal["pair", "text", "subject"]
FIELDS = ("question", "answer", "text", "subject", "aliases", "alternates", "key")
"""The names a row may use; `--map answer=reply` says that our 'answer' is the file's 'reply'."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a forget, retain or holdout set. A pair has question and answer, a text has text, a subject only a name."""

    id: str
    question: str = ""
    answer: str = ""
    text: str = ""
    subject: str = ""
    """Whom or what the row is about, by name; required where nothing else is given, welcome beside a pair or a text."""
    group: str = ""
    """Rows that belong together (one person's, one document's); halves and intervals keep them whole. Default: the subject."""
    aliases: tuple[str, ...] = ()
    paraphrased_answer: str = ""
    perturbed_answer: tuple[str, ...] = ()
    """Wrong answers, where the file has them: they let a guard's strength be chosen without a retrained model."""
    alternates: tuple[str, ...] = ()
    """Other answers that may be trained on in place of this one, where the file has them."""
    key: tuple[str, ...] = ()
    """The words or phrases of the answer (or text) that carry the fact, where they are known."""

    @property
    def shape(self) -> Shape:
        return "pair" if self.question else "text" if self.text else "subject"

    @property
    def content(self) -> str:
        """What makes two rows the same content: spacing and capitals do not."""
        return " ".join(
            (
                self.question
                + "\n"
                + self.answer
                + self.text
                + ("" if self.question or self.text else self.subject)
            )
            .casefold()
            .split()
        )

    def example(self) -> Example:
        """The row as prompt and answer (pairs) or raw text. Subjects have neither."""
        if self.shape == "pair":
            return Example(Prompt.ask(self.question), self.answer, self.id, self.key)
        return Example(None, self.text, self.id, self.key)

    @classmethod
    def from_probe(cls, probe: Probe) -> Record:
        return cls(
            probe.id,
            probe.question,
            probe.answer,
            subject=probe.subject,
            group=probe.subject,
            paraphrased_answer=probe.paraphrased_answer,
            perturbed_answer=probe.perturbed_answer,
            key=(probe.value,) if probe.value else (),
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """What must go, what must stay, and what was never trained on."""

    forget: tuple[Record, ...]
    retain: tuple[Record, ...] = ()
    holdout: tuple[Record, ...] = ()

    def __post_init__(self):
        if not self.forget:
            raise DataError(
                "the forget set is empty: there is nothing to unlearn. Give at least one row with --forget."
            )

    @classmethod
    def from_files(
        cls,
        forget: str | Path,
        retain: str | Path | None = None,
        holdout: str | Path | None = None,
        *,
        mapping: Mapping[str, str] | None = None,
        allow_overlap: bool = False,
    ) -> Dataset:
        """Read the sets. Raises DataError for a bad file or row, or when forget and retain share rows."""
        sets = [read_records(Path(path), mapping) if path else () for path in (forget, retain, holdout)]
        data = cls(*sets)
        if not allow_overlap:
            data.refuse_overlap()
        return data

    def refuse_overlap(self) -> None:
        kept = {record.content: record for record in self.retain}
        shared = [record for record in self.forget if record.content in kept]
        if shared:
            first = shared[0]
            raise DataError(
                f"{len(shared)} of {len(self.forget)} forget rows are also in the retain set of {len(self.retain)} rows "
                f"(first: forget row {first.id}, retain row {kept[first.content].id}).\n"
                "One pull would fight the other on the same text. Take them out of one set, or run with --allow-overlap."
            )

    @property
    def subjects(self) -> tuple[str, ...]:
        """All names and aliases that the forget rows carry, each once, in order."""
        return tuple(
            dict.fromkeys(
                name for record in self.forget for name in (record.subject, *record.aliases) if name
            )
        )

    def halves(self) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
        """The forget rows in two halves by group, in order: one to choose settings on, one to report.

        A single group cannot be parted and is in both.
        """
        groups = list(dict.fromkeys(record.group or record.id for record in self.forget))
        if len(groups) < 2:
            return self.forget, self.forget
        first = set(groups[: len(groups) // 2])
        chosen = [(record.group or record.id) in first for record in self.forget]
        parts = (
            [r for r, c in zip(self.forget, chosen, strict=True) if c is which] for which in (True, False)
        )
        return tuple(next(parts)), tuple(next(parts))

    def fingerprint(self) -> str:
        """SHA-256 of the content of all three sets. Empty fields do not count, so a field that files may have changes no others."""
        content = [
            [{name: value for name, value in asdict(record).items() if value} for record in part]
            for part in (self.forget, self.retain, self.holdout)
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_records(path: Path, mapping: Mapping[str, str] | None = None) -> tuple[Record, ...]:
    """All rows of a file. Raises DataError naming file, line and field."""
    mapping = dict(mapping or {})
    for field in mapping:
        if field not in FIELDS:
            raise DataError(
                f"--map {field}={mapping[field]}: there is no field '{field}'. Fields: {', '.join(FIELDS)}."
            )
    records = tuple(
        _record(row, where, number, mapping) for number, (where, row) in enumerate(read_rows(path))
    )
    if not records:
        raise DataError(
            f"{path} has no rows. Expected one per line, each with 'question' and 'answer', or 'text', or 'subject'."
        )
    return records


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each row of a JSONL, JSON, CSV or Parquet file. `where` names file and line for messages."""
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}.")
    suffix = path.suffix.lower()
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if suffix not in readers:
        raise DataError(f"{path}: cannot read '{suffix or 'no suffix'}'. Known: {', '.join(readers)}.")
    try:
        yield from readers[suffix](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except RecursionError:
                raise DataError(f"{where}: nested too deeply. Each line must be one JSON object.") from None
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{where}: not valid JSON: {error.msg} at column {error.colno}. Each line must be one JSON object."
                ) from None
            if not isinstance(row, dict):
                raise DataError(
                    f"{where}: expected a JSON object with named fields, found {type(row).__name__}."
                )
            yield where, row


def _read_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _read_jsonl(path)
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}.") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, item {number}: expected an object with named fields, found {type(row).__name__}."
            )
        yield f"{path}, item {number}", row


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(
                    f"{where}: the row has another number of columns than the header ({', '.join(reader.fieldnames or ())})."
                )
            yield where, {name: value for name, value in row.items() if value != ""}


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}.") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}, row {number}", {name: value for name, value in row.items() if value is not None}


def _record(row: Mapping[str, Any], where: str, number: int, mapping: Mapping[str, str]) -> Record:
    def text(field: str) -> str:
        value = row.get(mapping.get(field, field), "")
        if not isinstance(value, str):
            raise DataError(f"{where}: field '{mapping.get(field, field)}' is {value!r}; expected text.")
        return value

    found = {field: text(field) for field in ("question", "answer", "text", "subject")}
    has = {field for field in found if mapping.get(field, field) in row}
    if not has & {"question", "answer", "text", "subject"}:
        raise DataError(_missing(row, where, "question"))
    if has & {"question", "answer"} and not has >= {"question", "answer"}:
        raise DataError(_missing(row, where, "answer" if "question" in has else "question"))
    shape = ("question", "answer") if "question" in has else ("text",) if "text" in has else ("subject",)
    for field in shape:
        if not found[field].strip():
            raise DataError(
                f"{where}: field '{mapping.get(field, field)}' is empty. Give it text, or take the row out."
            )
    if shape[0] == "question":
        found["text"] = ""
    return Record(
        str(row.get("id", number)),
        **found,
        group=str(row.get("group", found["subject"])),
        aliases=_names(row.get(mapping.get("aliases", "aliases"), ()), where),
        paraphrased_answer=str(row.get("paraphrased_answer", "")),
        perturbed_answer=_names(row.get("perturbed_answer", ()), where),
        alternates=_names(row.get(mapping.get("alternates", "alternates"), ()), where),
        key=_names(row.get(mapping.get("key", "key"), ()), where),
    )


def _missing(row: Mapping[str, Any], where: str, field: str) -> str:
    names = ", ".join(f"'{name}'" for name in row) or "none"
    other = next((name for name in row if isinstance(row[name], str) and name not in FIELDS), None) or next(
        iter(row), "..."
    )
    return (
        f"{where}: no field '{field}' (fields: {names}).\n"
        "A row needs 'question' and 'answer', or 'text' alone for raw passages, or 'subject' alone for a name.\n"
        f"If '{other}' is the {field}, run with --map {field}={other}."
    )


def _names(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(";")]
    if not isinstance(value, Iterable) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: expected a list of texts (or texts parted by ';'), found {value!r}.")
    return tuple(name for name in value if name)
