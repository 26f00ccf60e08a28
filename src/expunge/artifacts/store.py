"""Folders that appear whole or not at all: written under a hidden sibling, renamed when done, resumed when cut short."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.errors import StorageError


def cache_folder() -> Path:
    """Where built models and gold evaluations are kept between runs: $EXPUNGE_CACHE, else ~/.cache/expunge."""
    if own := os.environ.get("EXPUNGE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "expunge"


def finished(out: Path, inputs: str) -> bool:
    """Whether `out` already holds the finished result of these inputs.

    Raises StorageError when it holds something else: a finished run is never overwritten.
    """
    if not out.exists():
        return False
    manifest = out / "manifest.json"
    if manifest.is_file():
        held = json.loads(manifest.read_text(encoding="utf-8")).get("inputs")
        if held == inputs:
            return True
        raise StorageError(
            f"--out {out}: a run with other inputs is there already. Choose another folder, or remove this one."
        )
    if out.is_dir() and not any(out.iterdir()):
        return False
    raise StorageError(
        f"--out {out}: exists and is not a run of these inputs. Choose another folder, or remove this one."
    )


@contextmanager
def workspace(out: Path, inputs: str) -> Generator[Path]:
    """A folder to build `out` in. Leaving it normally renames it to `out`; leaving it by an exception keeps what it holds for
    the next try with the same inputs, and `out` does not exist. Raises StorageError when another process is at it, or the disk fails.
    """
    from filelock import FileLock, Timeout

    partial = out.with_name(f".{out.name}.partial")
    with _disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.with_name(f".{out.name}.lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise StorageError(
                f"--out {out}: another process is writing it now. Wait for it, or choose another folder."
            ) from None
        try:
            mark = partial / "inputs"
            if partial.exists() and not (mark.is_file() and mark.read_text() == inputs):
                shutil.rmtree(partial)  # an unfinished run of other inputs: nothing of it can be used
            partial.mkdir(exist_ok=True)
            mark.write_text(inputs)
            yield partial
            mark.unlink()
            if out.exists():
                out.rmdir()  # empty: `finished` has refused anything else
            partial.rename(out)
        except BaseException:
            if partial.exists() and [*partial.iterdir()] == [mark]:
                shutil.rmtree(partial)  # nothing was done yet that a next try could go on from
            raise
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader never sees half a file. Raises StorageError where nothing can be written."""
    if path.is_dir():
        raise StorageError(f"{path}: is a folder, and a file was to be written there. Give the file a name.")
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as new:
            new.write_text(text, encoding="utf-8")


@contextmanager
def _beside(path: Path) -> Generator[Path]:
    """A file of this process's own that takes the place of `path` when it is whole; two processes may write the same file."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_text` does; a number that is not finite is a bug of the caller's."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """One JSON value a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of plain values as Parquet, atomically. Fields that some rows lack are null there; nothing is written without rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    with _disk_errors(path), _beside(path) as new:
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), new)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(folder: Path) -> None:
    """Take a folder away, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _disk_errors(out: Path) -> Generator[None]:
    """Turn a disk that is full or closed to us into a StorageError; everything else passes."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        denied = isinstance(
            error, (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError)
        ) or (getattr(error, "errno", None) == errno.EROFS)
        if not full and not denied:
            raise
        what = "the disk is full" if full else f"not allowed to write there ({error})"
        raise StorageError(
            f"{out}: {what}. No artifact was left there; mend it and run the same command again, it resumes."
        ) from error
