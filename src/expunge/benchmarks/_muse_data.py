"""MUSE's data, from a folder of JSONL files or the hub: raw texts, prompts, questions, passages, folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expunge.benchmarks._data import Located, read_hub, read_table, require
from expunge.errors import ConfigError, DataError

Kind = Literal["scalability", "sustainability"]
FILES = ("raw", "verbmem", "knowmem", "privleak")
SPLITS = {
    "raw": ("forget", "retain1", "retain2", "holdout"),
    "verbmem": ("forget",),
    "knowmem": ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"),
    "privleak": ("forget", "retain", "holdout"),
}
FIELDS = {
    "raw": {"text": str},
    "verbmem": {"prompt": str, "gt": str},
    "knowmem": {"question": str, "answer": str},
    "privleak": {"text": str},
}
KINDS: tuple[Kind, ...] = ("scalability", "sustainability")
SHORT = {"scalability": "scal", "sustainability": "sust"}
"""What the hub and the files call the two kinds of folds."""
FOLDS = 4
LAYOUT = (
    "A folder has raw.jsonl (split: forget, retain1, retain2, holdout; text), verbmem.jsonl (prompt, gt), knowmem.jsonl (split: forget_qa,"
    " forget_qa_icl, retain_qa, retain_qa_icl; question, answer), privleak.jsonl (split: forget, retain, holdout; text), and where there are"
    " folds scal_sust.jsonl (criterion: scal or sust; fold; text)."
)


class Question(NamedTuple):
    question: str
    answer: str


@dataclass(frozen=True)
class MuseData:
    source: str
    raw: dict[str, list[str]]
    """Split to texts."""
    verbmem: list[tuple[str, str]]
    """(prompt, how the forget text goes on)"""
    knowmem: dict[str, list[Question]]
    privleak: dict[str, list[str]]
    chapters: list[int | None]
    """Numbers of the forget texts, where the file has them."""
    part: bool = False
    """Whether these are only some of the texts."""

    def folds(self, kind: Kind) -> list[list[str]]:
        """The forget texts of each fold: nested for scalability, disjoint for sustainability. Raises DataError where there are none."""
        folder = Path(self.source)
        if not folder.is_dir():
            return self._hub_folds(kind)
        kept = set(self.raw["forget"])  # a part of the texts has a part of the folds
        found = [
            [text for text in texts if text in kept or not self.part]
            for texts in self._folder_folds(folder, kind)
        ]
        return [texts for i, texts in enumerate(found) if texts and texts not in found[:i]]

    def trained(self) -> list[str]:
        """All that a target has learned and may have to forget: beyond the forget set, News trains on what its later folds forget."""
        folder = Path(self.source)
        more: list[str] = []
        if not folder.is_dir() and not self.part:
            more = _texts(read_hub(self.source, "train", "forget", "raw"))
        elif (folder / "scal_sust.jsonl").is_file():
            more = [text for kind in KINDS for texts in self.folds(kind) for text in texts]
        return list(dict.fromkeys([*self.raw["forget"], *more]))

    def _folder_folds(self, folder: Path, kind: Kind) -> list[list[str]]:
        if not (folder / "scal_sust.jsonl").is_file():
            raise DataError(
                f"{folder}: no scal_sust.jsonl, so there are no folds for {kind}. Each of its rows has 'criterion' (scal or sust), 'fold',"
                " and a 'text' of the fold or the 'forget_chapters' that it takes of raw.jsonl."
            )
        folds: dict[int, list[str]] = {}
        by_number = dict(zip(self.chapters, self.raw["forget"], strict=True))
        located = read_table(folder, "scal_sust")
        for (where, _), row in zip(located, require(located, {"criterion": str, "fold": int}), strict=True):
            if row["criterion"] != SHORT[kind]:
                continue
            if not isinstance(row.get("forget_chapters", []), list):
                raise DataError(
                    f"{where}: field 'forget_chapters' is {row['forget_chapters']!r}; expected a list of numbers."
                )
            fold = folds.setdefault(row["fold"], [])
            fold += [row["text"]] if "text" in row else []
            fold += [by_number[number] for number in row.get("forget_chapters", []) if number in by_number]
        if not any(folds.values()):
            raise DataError(
                f"{folder / 'scal_sust.jsonl'}: no fold with criterion '{SHORT[kind]}' has a text of these."
            )
        return [folds[number] for number in sorted(folds)]

    def _hub_folds(self, kind: Kind) -> list[list[str]]:
        if self.source.lower().endswith("books"):
            raise DataError(f"{self.source}: MUSE has folds for News only, so there is no {kind} on Books.")
        if self.part:
            raise ConfigError(
                "benchmark muse: texts leaves a part of the data, and the hub's folds are whole. Leave it out."
            )
        return [
            _texts(read_hub(self.source, SHORT[kind], f"forget_{fold}", "scal_sust"))
            for fold in range(1, FOLDS + 1)
        ]

    def first(self, texts: int) -> MuseData:
        """The first so many texts of each raw split, with the rows that these texts hold."""
        raw = {split: found[:texts] for split, found in self.raw.items()}
        held = {
            "forget": _Held(raw["forget"]),
            "retain": _Held([*raw["retain1"], *raw["retain2"]]),
            "holdout": _Held(raw["holdout"]),
        }
        part = replace(
            self,
            raw=raw,
            part=True,
            chapters=self.chapters[:texts],
            verbmem=[(prompt, gt) for prompt, gt in self.verbmem if held["forget"].has(f"{prompt} {gt}")],
            privleak={
                split: [text for text in found if held[split].has(text)]
                for split, found in self.privleak.items()
            },
            knowmem={
                split: found
                if split.endswith("_icl")
                else [row for row in found if held[split.removesuffix("_qa")].has(row.answer)]
                for split, found in self.knowmem.items()
            },
        )
        empty = [
            name
            for name, found in {"verbmem": part.verbmem, **part.privleak, **part.knowmem}.items()
            if not found
        ]
        if empty:
            raise ConfigError(
                f"benchmark muse: texts {texts} leaves no rows of {', '.join(empty)}. Take more texts, or all of them."
            )
        return part

    def shortened(self, words: int) -> MuseData:
        """Openings (their ends), continuations and passages of at most so many words, and one worked example."""

        def head(text: str) -> str:
            return " ".join(text.split()[:words])

        return replace(
            self,
            verbmem=[(" ".join(prompt.split()[-words:]), head(gt)) for prompt, gt in self.verbmem],
            privleak={split: [head(text) for text in found] for split, found in self.privleak.items()},
            knowmem={
                split: found[:1] if split.endswith("_icl") else found for split, found in self.knowmem.items()
            },
        )


class _Held:
    """Whether a passage stands in some texts, whatever its capitals and spacing."""

    def __init__(self, texts: Sequence[str]):
        self.text = _plain(" ".join(texts))

    def has(self, passage: str) -> bool:
        return _plain(passage) in self.text


def read_muse(data: str, corpus: str) -> MuseData:
    """Raises DataError saying what is missing, what to download and where to put it."""
    source = _source(data, corpus)
    tables = {name: _by_split(source, name) for name in FILES}
    return MuseData(
        source=source,
        raw={split: [row["text"] for row in rows] for split, rows in tables["raw"].items()},
        verbmem=[(row["prompt"], row["gt"]) for row in tables["verbmem"]["forget"]],
        knowmem={
            split: [Question(row["question"], row["answer"]) for row in rows]
            for split, rows in tables["knowmem"].items()
        },
        privleak={split: [row["text"] for row in rows] for split, rows in tables["privleak"].items()},
        chapters=[row.get("chapter") for row in tables["raw"]["forget"]],
    )


def _source(data: str, corpus: str) -> str:
    """The folder or hub id that has one corpus."""
    if not corpus:
        return data
    folder = Path(data) / corpus
    if folder.is_dir():
        return str(folder)
    if Path(data).is_dir():
        raise DataError(
            f"{data}: no folder '{corpus}' in it. Leave corpus out where the folder itself holds the files."
        )
    hub = f"MUSE-{corpus.capitalize()}"
    return data if data.endswith(hub) else f"{data.split('/', maxsplit=1)[0]}/{hub}"


def _by_split(source: str, name: str) -> dict[str, list[dict[str, Any]]]:
    """Split to rows of one table."""
    splits, fields = SPLITS[name], FIELDS[name]
    if not Path(source).is_dir():
        try:
            return {split: require(read_hub(source, name, split, name), fields) for split in splits}
        except DataError as error:
            raise DataError(f"{error}\n{LAYOUT}") from error
    located = read_table(source, name, files=FILES)
    found: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    for (where, _), row in zip(located, require(located, fields), strict=True):
        split = row.get("split", splits[0] if len(splits) == 1 else None)
        if not isinstance(split, str) or split not in found:
            raise DataError(f"{where}: field 'split' is {split!r}; {name} has {', '.join(splits)}.")
        found[split].append(row)
    empty = [split for split, rows in found.items() if not rows]
    if empty:
        raise DataError(f"{source}: {name}.jsonl has no rows of split {', '.join(empty)}.\n{LAYOUT}")
    return found


def _texts(located: Located) -> list[str]:
    return [row["text"] for row in require(located, {"text": str})]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def contents(data: MuseData) -> Iterable[Any]:
    """Everything that figures depend on, as plain values."""
    return [data.raw, data.verbmem, data.knowmem, data.privleak]
