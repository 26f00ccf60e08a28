"""The nearest of many stored texts: one matrix for all removal requests, one product for a prompt.

Rows are unit vectors, so a product is a cosine. A request is added or withdrawn by its rows alone: nothing is trained, and what
the others score stays as it was.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
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
KINDS = 3
BLOCK = 2**21  # cosines worked out at a time
REMEMBERED = 2**13
"""Words whose buckets are kept at hand."""
CHUNK = 1024
"""Requests, at most, whose questions stand in one chunk."""
_WORD = re.compile(r"\w+")


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
    def fit(cls, texts: Sequence[str], common: float = 1.0, empty: Collection[str] = ()) -> HashedNgrams:
        """`texts` are ordinary ones: what is frequent in them counts for less, and nothing where it stands in more than the share
        `common` of them. Without any, everything counts the same. `empty`: words that say nothing wherever they stand, alone, in
        pieces, or beside each other.
        """
        texts_with = np.zeros(WIDTH, dtype=np.float32)
        for text in texts:
            texts_with[np.unique(np.frombuffer(b"".join(_buckets(text)), dtype=np.int32))] += 1
        idf = np.log((1 + len(texts)) / (1 + texts_with)) + 1
        idf[texts_with > common * len(texts)] = 0
        for word in empty:
            for found in _buckets(" ".join(part for other in empty for part in (word, other))):
                idf[np.frombuffer(found, dtype=np.int32)] = 0
        return cls(idf)

    def pieces(self, text: str) -> list[str]:
        return [text]

    def encode(self, texts: Sequence[str]) -> sparse.csr_array:
        """One row a text, its buckets in order. How many are encoded together changes no bit."""
        kinds = [kind for text in texts for kind in _buckets(text)]
        found = np.frombuffer(b"".join(kinds), dtype=np.int32)
        owners = np.repeat(np.arange(len(kinds)), [len(kind) // found.itemsize for kind in kinds])
        cells, counts = np.unique(owners * WIDTH + found, return_counts=True)
        kind, bucket = np.divmod(cells, WIDTH)
        values = (1 + np.log(counts)) * self.idf[bucket]
        told = values > 0
        values = _unit(values[told], kind[told], len(kinds))
        cells, place = np.unique(kind[told] // KINDS * WIDTH + bucket[told], return_inverse=True)
        row, bucket = np.divmod(cells, WIDTH)
        values = _unit(np.bincount(place, values, len(cells)), row, len(texts))
        ends = np.searchsorted(row, np.arange(len(texts) + 1)).astype(np.int32)
        return sparse.csr_array(
            (values.astype(np.float32), bucket.astype(np.int32), ends), (len(texts), WIDTH)
        )

    def state(self) -> dict[str, Any]:
        return {"idf": self.idf}


def _unit(values: np.ndarray, owner: np.ndarray, owners: int) -> np.ndarray:
    """Each owner's values at length 1; summed one after the other, so that a value does not depend on who stands beside it."""
    return values / np.sqrt(np.bincount(owner, values * values, owners))[owner]


def _buckets(text: str) -> tuple[bytes, bytes, bytes]:
    """Of each kind, 32 bits a bucket. A checksum is the same on every machine and in every process, as Python's own hash is not."""
    words = _WORD.findall(text.casefold())
    known = [_word_buckets(word) for word in words]
    pairs = _packed(crc32(f"{a} {b}".encode(), 1) for a, b in pairwise(words))
    return b"".join([whole for whole, _ in known]), pairs, b"".join([parts for _, parts in known])


@lru_cache(REMEMBERED)
def _word_buckets(word: str) -> tuple[bytes, bytes]:
    """The bucket of a word, and those of its pieces."""
    return _packed([crc32(word.encode())]), _packed(crc32(p.encode(), 2) for p in ngrams_by_kind(word)[2])


def _packed(sums: Iterable[int]) -> bytes:
    return array("i", [found % WIDTH for found in sums]).tobytes()


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
        for product in self._matrix.products(rows):
            best = product.argmax(axis=1)  # a NaN wins; of several the first
            scores.append(product[np.arange(len(best)), best].astype(np.float32))
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

    columns: np.ndarray | Columns  # [width, n]
    owners: list[str]
    ends: np.ndarray  # [owners]

    @classmethod
    def of(cls, rows: dict[str, Rows]) -> _Matrix:
        owners = sorted(rows)
        stacked = _stack([rows[owner] for owner in owners])
        columns = stacked.T if isinstance(stacked, np.ndarray) else Columns.of(stacked)
        return cls(columns, owners, np.cumsum([rows[owner].shape[0] for owner in owners]))

    def products(self, rows: Any) -> Iterator[np.ndarray]:
        """[block, n] cosines, block by block."""
        block = max(1, BLOCK // int(self.ends[-1]))
        for i in range(0, rows.shape[0], block):
            yield rows[i : i + block] @ self.columns


class Columns:
    """Sparse rows by bucket, to be met by others. Nothing in it changes."""

    __array_ufunc__ = None  # `rows @ columns` comes here

    def __init__(self, buckets: np.ndarray, columns: np.ndarray, values: np.ndarray, floors: np.ndarray):
        """Entries in the order of their buckets; of a bucket, in that of their columns. `floors`, [count]: a cosine with a column that
        is no higher than its floor counts as 0.
        """
        self.buckets, self.columns, self.values, self.floors = buckets, columns, values, floors

    @property
    def count(self) -> int:
        return len(self.floors)

    @classmethod
    def of(cls, rows: sparse.csr_array, floors: np.ndarray | None = None) -> Columns:
        order = rows.indices.argsort(kind="stable")
        columns = np.repeat(np.arange(rows.shape[0], dtype=np.int32), np.diff(rows.indptr))
        if floors is None:
            floors = np.zeros(rows.shape[0])
        return cls(rows.indices[order], columns[order], rows.data[order], floors)

    def __rmatmul__(self, rows: sparse.csr_array) -> np.ndarray:
        """[n, count] cosines, each summed bucket by bucket: what else is stored changes no bit of them."""
        first = self.buckets.searchsorted(rows.indices)
        met = self.buckets.searchsorted(rows.indices, side="right") - first
        entries = np.repeat(first - (met.cumsum() - met), met) + np.arange(met.sum())
        row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        cells = np.repeat(row * self.count, met) + self.columns[entries]
        products = np.repeat(rows.data, met) * self.values[entries]
        found = np.bincount(cells, products, rows.shape[0] * self.count).reshape(rows.shape[0], self.count)
        found[found <= self.floors] = 0  # not a NaN, which wins everywhere
        return found

    def beside(self, other: Columns) -> Columns:
        """Those of both, these first."""
        buckets = np.concatenate([self.buckets, other.buckets])
        order = buckets.argsort(kind="stable")
        columns = np.concatenate([self.columns, other.columns + np.int32(self.count)])[order]
        values = np.concatenate([self.values, other.values])[order]
        return Columns(buckets[order], columns, values, np.concatenate([self.floors, other.floors]))

    def only(self, kept: np.ndarray) -> Columns:
        """Those where `kept`, [count] bool, says so."""
        stays = kept[self.columns]
        number = (kept.cumsum() - 1).astype(np.int32)
        return Columns(
            self.buckets[stays], number[self.columns[stays]], self.values[stays], self.floors[kept]
        )


class Background:
    """Rows of ordinary prompts, by row and by bucket."""

    def __init__(self, rows: sparse.csr_array):
        self.rows, self.columns = rows, Columns.of(rows)

    def near(self, rows: sparse.csr_array, floors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[background] how near the nearest of some rows comes to each, above its floor, and which it is. Raises ValueError without rows."""
        best, which = np.full(self.columns.count, -np.inf), np.zeros(self.columns.count, dtype=np.int64)
        block = max(1, BLOCK // self.columns.count)
        for i in range(0, rows.shape[0], block):
            product = rows[i : i + block] @ self.columns
            product[product <= floors[i : i + block, None]] = 0
            row = product.argmax(axis=0)
            found = product[row, np.arange(len(row))]
            nearer = found > best
            best, which = np.where(nearer, found, best), np.where(nearer, row + i, which)
        return best, which


class Chunk(NamedTuple):
    """The questions of some requests. Nothing in it changes: who adds or withdraws one makes a new chunk."""

    owners: tuple[str, ...]  # [n]
    columns: Columns  # [n]
    near: np.ndarray  # [background] how near any of them comes to each prompt that must pass
    nearest: np.ndarray  # [background] which of them does
    requests: int

    @classmethod
    def of(
        cls,
        owners: Sequence[str],
        rows: sparse.csr_array,
        background: Background,
        floors: np.ndarray | None = None,
    ) -> Chunk:
        """`owners` and `floors`: of each row."""
        columns = Columns.of(rows, floors)
        return cls(tuple(owners), columns, *background.near(rows, columns.floors), len(set(owners)))

    def beside(self, other: Chunk) -> Chunk:
        nearer = other.near > self.near
        return Chunk(
            self.owners + other.owners,
            self.columns.beside(other.columns),
            np.where(nearer, other.near, self.near),
            np.where(nearer, other.nearest + len(self.owners), self.nearest),
            self.requests + other.requests,
        )

    def without(self, gone: frozenset[str], background: Background) -> Chunk | None:
        """What is left; None where nothing is."""
        kept = np.array([owner not in gone for owner in self.owners])
        if not kept.any():
            return None
        columns = self.columns.only(kept)
        near, nearest = self.near.copy(), (kept.cumsum() - 1)[self.nearest]
        lost = np.flatnonzero(~kept[self.nearest])
        block = max(1, BLOCK // columns.count)
        for i in range(0, len(lost), block):
            product = background.rows[lost[i : i + block]] @ columns
            best = product.argmax(axis=1)
            nearest[lost[i : i + block]] = best
            near[lost[i : i + block]] = product[np.arange(len(best)), best]
        owners = tuple(owner for owner in self.owners if owner not in gone)
        return Chunk(owners, columns, near, nearest, len(set(owners)))


def nearest_owners(rows: sparse.csr_array, chunks: Sequence[Chunk], threshold: float) -> set[str]:
    """The owners of the rows nearest to each of `rows` over all chunks, where they come as near as the threshold or cannot be compared.

    Of owners that are equally near it is the first by name, however they are spread.
    """
    found = set()
    block = max(1, BLOCK // sum(chunk.columns.count for chunk in chunks))
    for i in range(0, rows.shape[0], block):
        products = [rows[i : i + block] @ chunk.columns for chunk in chunks]
        best = np.max([product.max(axis=1) for product in products], axis=0)  # a NaN wins
        for row in np.flatnonzero(~(best < threshold)):
            found.add(
                min(
                    chunk.owners[at]
                    for chunk, product in zip(chunks, products, strict=True)
                    for at in np.flatnonzero(~(product[row] < best[row]))
                )
            )
    return found


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
