"""OFFSIDE's JSON files: questions with and without images, their fields checked, images at the size that models are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.artifacts import store
from expunge.artifacts.manifest import hash_of
from expunge.benchmarks._data import SUFFIXES, Located, read_table
from expunge.data.images import write_resized
from expunge.errors import DataError

SETS = ("forget", "retain", "test", "relearn")
FILES = {
    "forget": ("forget_set", "classification_forget_set"),
    "retain": ("retain_set", "classification_retain_set"),
    "test": ("test_set", "classification_test_set"),
    "relearn": ("relearn_set", "relearn_set_enhanced", "classification_relearn_set"),
}
WHOLE = "finetune_set"
"""One file of all images, parted by `set_of_image`."""
FOLDERS = {
    "complete": "complete_unlearning_data",
    "selective": "selective_unlearning_data",
    "text": "pure_text_data",
}
LETTERS = ("A", "B", "C", "D")
SIZE = (256, 256)
PRIVATE = re.compile(
    r"\b(?:clubs?|transfer\w*|market value|worth|fees?|troph\w+|honou?rs|join\w*)\b", re.IGNORECASE
)
"""Words of the six private questions: next club, previous club, date of transfer, fee, market value, trophies."""


@dataclass(frozen=True)
class Question:
    kind: Literal["generation", "class"]
    text: str
    answer: str
    """What the assistant says, or the right letter."""
    options: tuple[tuple[str, str], ...] = ()
    image: Path | None = None
    """As the row names it."""

    @property
    def private(self) -> bool:
        """Whether it asks for one of the six facts that belong to one image, not for one that all images of a player share."""
        return bool(PRIVATE.search(self.text))

    @property
    def subject(self) -> str:
        """The image; rows of one image are one cluster."""
        return self.image.stem if self.image else ""


def set_of_image(image: str | int) -> str:
    """The set that an image belongs to, by its number modulo 5: 1, 2 and 3 retain, 4 forget, 0 relearn; test images are augmented retain
    images. Raises DataError for a file name without a number.
    """
    number = image if isinstance(image, int) else _number(image)
    return {4: "forget", 0: "relearn"}.get(number % 5, "retain")


def _number(name: str) -> int:
    found = re.search(r"\d+", Path(name).stem)
    if not found:
        raise DataError(f"image {name}: no number in its name, so it belongs to no set.")
    return int(found[0])


def read_sets(data: str, setting: str, modality: str) -> dict[str, list[Question]]:
    """The questions by set. Images are those of rows, or none where `modality` is "text". Raises DataError."""
    folder = find_folder(data, setting, modality)
    found: dict[str, list[Question]] = {name: [] for name in SETS}
    if _has(folder, WHOLE) and not _has(folder, "forget_set"):
        for where, row in read_table(folder, WHOLE):
            question = _question(where, row, folder, shows=True)
            assert question.image
            shown = (
                question if modality == "image" else Question("generation", question.text, question.answer)
            )
            found[set_of_image(question.image.name)].append(shown)
    else:
        for name, files in FILES.items():
            for file in files:
                if _has(folder, file) or file == "forget_set":
                    rows: Located = read_table(
                        folder, file, files=[f for listed in FILES.values() for f in listed]
                    )
                    found[name] += [
                        _question(where, row, folder, shows=modality == "image") for where, row in rows
                    ]
    if not found["forget"]:
        raise DataError(f"{folder}: no forget rows.")
    return found


def find_folder(data: str, setting: str, modality: str) -> Path:
    """Where the files of a setting lie: in the authors' folder for it, or in `data` itself. Raises DataError."""
    root = Path(data)
    if not root.is_dir():
        raise DataError(
            f"--data {data}: no such folder. OFFSIDE's images show living people and are not fetched by expunge: download and unzip them,"
            " then give the folder with forget_set.json."
        )
    own = root / FOLDERS["text" if modality == "text" else setting]
    return own if own.is_dir() else root


def _has(folder: Path, name: str) -> bool:
    return any((folder / f"{name}{suffix}").is_file() for suffix in SUFFIXES)


def _question(where: str, row: dict[str, Any], folder: Path, *, shows: bool) -> Question:
    image = _image(where, row, folder) if shows else None
    if "messages" not in row:
        return _choice(where, row, image)
    turns = row["messages"]
    if not isinstance(turns, list) or len(turns) != 2:
        raise DataError(f"{where}: field 'messages' is {turns!r}; expected two turns, of user and assistant.")
    texts = []
    for i, (turn, role) in enumerate(zip(turns, ("user", "assistant"), strict=True)):
        if not isinstance(turn, dict) or turn.get("role") != role:
            raise DataError(
                f"{where}: field 'messages[{i}]' is {turn!r}; expected an object with role '{role}'."
            )
        if not isinstance(turn.get("content"), str) or not turn["content"].strip():
            raise DataError(
                f"{where}: field 'messages[{i}].content' is {turn.get('content')!r}; expected text."
            )
        texts.append(turn["content"])
    return Question("generation", _bare(texts[0]), texts[1].strip(), image=image)


def _choice(where: str, row: dict[str, Any], image: Path | None) -> Question:
    for field, kind, wanted in (
        ("Question", str, "text"),
        ("Options", dict, "an object with A, B, C and D"),
        ("Correct_Answer", str, "one of A, B, C, D"),
    ):
        if field not in row:
            raise DataError(
                f"{where}: no field '{field}' (fields: {', '.join(row)}). A row has messages, or Question, Options and Correct_Answer."
            )
        if not isinstance(row[field], kind):
            raise DataError(f"{where}: field '{field}' is {row[field]!r}; expected {wanted}.")
    options = row["Options"]
    if tuple(sorted(options)) != LETTERS or not all(isinstance(text, str) for text in options.values()):
        raise DataError(
            f"{where}: field 'Options' is {options!r}; expected a text for each of A, B, C and D."
        )
    if row["Correct_Answer"] not in LETTERS:
        raise DataError(
            f"{where}: field 'Correct_Answer' is {row['Correct_Answer']!r}; expected one of A, B, C, D."
        )
    return Question("class", _bare(row["Question"]), row["Correct_Answer"], tuple(options.items()), image)


def _image(where: str, row: dict[str, Any], folder: Path) -> Path:
    """The file that a row shows: named from the folder, or lying in it under its bare name."""
    named = row.get("images", row.get("image"))
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    if not isinstance(named, str) or not named:
        raise DataError(
            f"{where}: field 'images' is {named!r}; expected the path of one image, from the folder {folder}.\n"
            "Rows without images are asked with --set modality=text."
        )
    for file in (folder / named, folder / Path(named).name):
        if file.is_file():
            return file
    raise DataError(f"{where}: field 'images' names {named}, and {folder / named} is no file.")


def _bare(text: str) -> str:
    """Without the marks that the authors' trainer puts images at; a model shows them by its own."""
    parts = [part.strip() for part in text.split("<image>")]
    return re.sub(r"\s+([.,?!])", r"\1", " ".join(part for part in parts if part))


def shown_images(sets: dict[str, list[Question]]) -> dict[Path, Path]:
    """Each image of the questions, and its copy at SIZE, made once and kept by content. Raises DataError naming the file."""
    found: dict[Path, Path] = {}
    for question in _all(sets):
        if question.image and question.image not in found:
            key = hash_of(["bicubic", SIZE, store.file_hash(question.image)])
            copy = store.cache_folder() / "images" / f"{key}.png"
            if not copy.is_file():
                write_resized(question.image, copy, SIZE)
            found[question.image] = copy
    return found


def fingerprint(sets: dict[str, list[Question]], copies: dict[Path, Path]) -> str:
    """Of every word and every image."""
    return hash_of(
        [
            [name, q.kind, q.text, q.answer, q.options, copies[q.image].stem if q.image else ""]
            for name, questions in sets.items()
            for q in questions
        ]
    )


def _all(sets: dict[str, list[Question]]) -> Iterator[Question]:
    return (question for questions in sets.values() for question in questions)
