"""The nearest of many stored texts: one matrix for all removal requests, one product for a prompt.

Rows are unit vectors, so a product is a cosine. A request is added or withdrawn by its rows alone: nothing is trained, and what
the others score stays as it was.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import numpy as np
from scipy import sparse

from expunge.guards.ngrams import ngrams_by_kind

Rows = np.ndarray | sparse.csr_array
"""[n, width] float32, each row of length 1 (or 0, where a text has nothing to count). Few entries of hashed n-grams are not 0."""
WIDTH = 2**18
"""Buckets of the hashed n-grams: so many that two of one prompt hardly ever share one."""
BLOCK = 512  # texts compared at a time


class Encoder(Protocol):
    def pieces(self, text: str) -> list[str]:
        """The text itself, or overlapping parts of one that is too long to be read in one."""
        ...

    def encode(self, texts: Sequence[str]) -> Rows:
        """One row a text."""
        ...

    def state(self) -> dict[str, Any]: ...


class HashedNgrams:
    """Words, word pairs and pieces of words in hashed buckets: (1 + log count) · idf, each of the three kinds at the same length.

    So a cosine is the mean of three, and the many pieces of two half names do not outweigh the pair that is the whole one. No
    model, and the same numbers everywhere.
    """

    def __init__(self, idf: np.ndarray):
        self.idf = idf

    @classmethod
    def fit(cls, texts: Sequence[str], common: float = 1.0) -> HashedNgrams:
        """`texts` are ordinary ones: what is frequent in them counts for less, and nothing where it stands in more than the share
        `common` of them. Without any, everything counts the same.
        """
        texts_with = np.zeros(WIDTH, dtype=np.float32)
        for text in texts:
            texts_with[list({bucket for kind in _buckets(text) for bucket in kind})] += 1
        idf = np.log((1 + len(texts)) / (1 + texts_with)) + 1
        return cls(np.where(texts_with > common * len(texts), np.float32(0), idf))

    def pieces(self, text: str) -> list[str]:
        return [text]

    def encode(self, texts: Sequence[str]) -> sparse.csr_array:
        rows = [self._row(text) for text in texts]
        buckets = np.array([bucket for row in rows for bucket in row], dtype=np.int32)
        values = np.array([value for row in rows for value in row.values()], dtype=np.float32)
        ends = np.cumsum([0, *map(len, rows)])
        return sparse.csr_array((values, buckets, ends), (len(texts), WIDTH))

    def _row(self, text: str) -> dict[int, float]:
        """Value by bucket, in the buckets' order."""
        row: dict[int, float] = {}
        for kind in _buckets(text):
            counts = Counter(kind)
            weights = {bucket: float(self.idf[bucket]) for bucket in counts}
            values = {
                bucket: (1 + math.log(n)) * weights[bucket] for bucket, n in counts.items() if weights[bucket]
            }
            length = math.hypot(*values.values())
            for bucket, value in values.items():
                row[bucket] = row.get(bucket, 0.0) + value / length
        length = math.hypot(*row.values())
        return {bucket: row[bucket] / length for bucket in sorted(row)}

    def state(self) -> dict[str, Any]:
        return {"idf": self.idf}


def _buckets(text: str) -> list[list[int]]:
    """Of each kind. A checksum is the same on every machine and in every process, as Python's own hash is not."""
    return [
        [crc32(gram.encode(), kind) % WIDTH for gram in grams]
        for kind, grams in enumerate(ngrams_by_kind(text))
    ]


class NeighbourIndex:
    """Rows of many owners, each owner one removal request."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self._rows: dict[str, Rows] = {}
        self._matrix: _Matrix | None = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, owner: str, texts: Sequence[str]) -> None:
        """Texts of an owner, beside those that it has."""
        if texts:
            rows = self.encoder.encode([piece for text in texts for piece in self.encoder.pieces(text)])
            self._put(owner, _stack([self._rows[owner], rows]) if owner in self._rows else rows)

    def remove(self, owner: str) -> None:
        """Everything of an owner: what is left scores exactly as if it had never been there. Raises KeyError for an unknown one."""
        del self._rows[owner]
        self._matrix = None

    def nearest(self, texts: Sequence[str]) -> list[tuple[float, str]]:
        """For each text the cosine of the nearest row and its owner; (0, "") where nothing is stored."""
        pieces = [self.encoder.pieces(text) for text in texts]
        scores, owners = self.nearest_rows(
            self.encoder.encode([piece for found in pieces for piece in found])
        )
        found, start = [], 0
        for count in map(len, pieces):
            best = start + int(np.argmax(scores[start : start + count]))  # a NaN wins
            found.append((float(scores[best]), owners[best]))
            start += count
        return found

    def nearest_rows(self, rows: Rows) -> tuple[np.ndarray, list[str]]:
        """[n] cosine of the nearest stored row, and its owner."""
        if not self._rows:
            return np.zeros(rows.shape[0], dtype=np.float32), [""] * rows.shape[0]
        self._matrix = self._matrix or _Matrix.of(self._rows)
        scores, owners = [], []
        for i in range(0, rows.shape[0], BLOCK):
            product: Any = rows[i : i + BLOCK] @ self._matrix.columns
            found, best = _best(product)
            scores.append(found)
            owners += [self._matrix.owners[at] for at in self._matrix.ends.searchsorted(best, side="right")]
        return np.concatenate(scores) if scores else np.zeros(0, dtype=np.float32), owners

    def state(self) -> dict[str, Any]:
        """The rows by owner. They can be matched against a guess, so they are as private as the texts."""
        return {owner: _plain(rows) for owner, rows in self._rows.items()}

    @classmethod
    def from_state(cls, state: dict[str, Any], encoder: Encoder) -> NeighbourIndex:
        index = cls(encoder)
        for owner, rows in state.items():
            index._put(owner, _whole(rows))
        return index

    def _put(self, owner: str, rows: Rows) -> None:
        self._rows[owner] = rows
        self._matrix = None


class _Matrix(NamedTuple):
    """All rows side by side, owners in alphabetical order: the order in which they came changes nothing."""

    columns: Rows  # [width, n]
    owners: list[str]
    ends: np.ndarray  # [owners]

    @classmethod
    def of(cls, rows: dict[str, Rows]) -> _Matrix:
        owners = sorted(rows)
        columns = _stack([rows[owner] for owner in owners]).T
        ends = np.cumsum([rows[owner].shape[0] for owner in owners])
        return cls(columns.tocsr() if isinstance(columns, sparse.sparray) else columns, owners, ends)


def _best(product: Any) -> tuple[np.ndarray, np.ndarray]:
    """[block] the largest cosine of each row of [block, n], and its column. A NaN wins; what is not stored is 0."""
    if not isinstance(product, sparse.sparray):
        columns = product.argmax(axis=1)
        return product[np.arange(len(columns)), columns], columns
    values, columns = np.zeros(product.shape[0], dtype=np.float32), np.zeros(product.shape[0], dtype=np.int64)
    for row, (start, end) in enumerate(pairwise(product.indptr)):
        if end > start:
            at = start + int(product.data[start:end].argmax())
            values[row], columns[row] = product.data[at], product.indices[at]
    return values, columns


def _stack(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else sparse.vstack(parts, format="csr")


def _plain(rows: Rows) -> Any:
    if isinstance(rows, np.ndarray):
        return rows
    return {"values": rows.data, "buckets": rows.indices, "ends": rows.indptr}


def _whole(state: Any) -> Rows:
    if isinstance(state, np.ndarray):
        return state
    ends = state["ends"]
    return sparse.csr_array((state["values"], state["buckets"], ends), (len(ends) - 1, WIDTH))
