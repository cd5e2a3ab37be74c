"""Where do the vectors lie? In chunks of so many rows in half precision: a full one is written once, then mapped.

A FAISS index each (`IndexScalarQuantizer` with 16-bit floats, what the database keeps: 2 bytes a number), so any range
of rows is scanned exactly: 100,000 x 384 in 3-4 ms on one core, half of what IndexFlatIP takes for twice the bytes.
No row is moved when one is added, and a save writes what is new: the cost of adding does not grow with the index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from memory.adapters.files import check_seal, replaced
from memory.adapters.vectors.checks import ranked
from memory.domain.errors import IndexDamaged
from memory.domain.ids import new_id
from memory.ports.indexes import RowHits, Rows
from memory.ports.models import Vectors

CHUNK_ROWS = 32_768
"""25 MB at d=384: what a save writes again while the last chunk fills up. 31 of them scan a million as fast as one."""

PREFIX = "rows-"

# FAISS keeps the k best, but which of several equal ones is left to its heap. A tie across the border is settled
# by asking for more: first this many, then all.
_TIES = 1024

# The stubs show the C++ constructors; the Python ones take arrays and keep them alive as long as themselves.
_Selector: Any = faiss.IDSelectorBitmap
_Parameters: Any = faiss.SearchParameters


class Chunk:
    """Some rows. Only the last chunk of an index grows; whoever reads beside that reads a `copy`."""

    def __init__(self, index: Any) -> None:
        self._held = (index, _codes(index))
        """With its bytes. Exchanged in one step; whoever reads one of them holds both, so its memory stays."""
        self._changes = 0
        self._written: tuple[str, int] | None = None

    def __len__(self) -> int:
        return len(self._held[1])

    def add(self, vectors: Vectors) -> None:
        index, _ = self._held
        # numpy's rounding, which is the database's: FAISS rounds some numbers to the other neighbour
        index.add_sa_codes(vectors.astype("<f2").view(np.uint8))
        self._changes += 1
        self._held = (index, _codes(index))

    def take(self, places: Rows) -> NDArray[np.uint8]:
        held = self._held
        return held[1][places]

    def copy(self) -> "Chunk":
        index, codes = self._held
        copied = empty(index.d)
        if len(codes):
            copied.add_sa_codes(codes)
        return Chunk(copied)

    def blanked(self, places: Rows) -> "Chunk":
        """A copy in which these rows are zeros. This one stays as it is: it may be mapped, or be part of a snapshot."""
        copied = self.copy()
        copied._held[1][places] = 0
        return copied

    def best(self, query: Vectors, k: int, allowed: NDArray[np.bool_]) -> RowHits:
        """The `k` best of the allowed rows, exactly; equal ones by rising row."""
        index, candidates = self._held[0], int(np.count_nonzero(allowed))
        k = min(k, candidates)
        if k <= 0:
            return RowHits(np.zeros(0, np.int64), np.zeros(0, np.float32))
        every = candidates == len(allowed)
        parameters = None if every else _Parameters(sel=_Selector(np.packbits(allowed, bitorder="little")))
        for wanted in (k + 1, max(16 * k, _TIES), candidates):
            wanted = min(wanted, candidates)
            found, at = index.search(query[np.newaxis], wanted, params=parameters)
            scores, rows = found[0][at[0] >= 0], at[0][at[0] >= 0]
            if wanted == candidates or scores[k - 1] > scores[-1]:
                break
        return ranked(rows, scores, k)

    @property
    def file(self) -> str | None:
        """The file that holds it as it is now."""
        return self._written[0] if self._written is not None and self._written[1] == self._changes else None

    def write(self, folder: Path, name: str) -> None:
        with replaced(folder / name, sealed=True) as draft:
            faiss.write_index(self._held[0], str(draft))

    def is_written(self, name: str, changes: int) -> None:
        self._written = (name, changes)

    @property
    def changes(self) -> int:
        return self._changes

    def map(self, path: Path) -> None:
        """Mutates: from now on it is read from its file, which holds the same; its memory is free for others."""
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        self._held = (index, _codes(index))


class Chunks:
    """All rows of an index, in order. One writer alone, readers beside readers."""

    def __init__(self, dimensions: int, chunk_rows: int, chunks: Sequence[Chunk] = ()) -> None:
        self.dimensions = dimensions
        self._rows = chunk_rows
        self._chunks = list(chunks)

    def __len__(self) -> int:
        return max(0, len(self._chunks) - 1) * self._rows + (len(self._chunks[-1]) if self._chunks else 0)

    def add(self, vectors: Vectors) -> None:
        while len(vectors):
            if len(self) == len(self._chunks) * self._rows:
                self._chunks.append(Chunk(empty(self.dimensions)))
            room = self._rows - len(self._chunks[-1])
            self._chunks[-1].add(vectors[:room])
            vectors = vectors[room:]

    def take(self, rows: Rows) -> Vectors:
        """float32 [m, d], in the order of `rows`."""
        order = np.argsort(rows, kind="stable")
        of_chunk, places = np.divmod(rows[order], self._rows)
        taken = np.empty((len(rows), 2 * self.dimensions), np.uint8)
        borders = np.flatnonzero(np.diff(of_chunk, prepend=-1, append=-1))
        for begin, end in pairwise(borders.tolist()):
            taken[order[begin:end]] = self._chunks[of_chunk[begin]].take(places[begin:end])
        return taken.view("<f2").astype(np.float32)

    def best(self, query: Vectors, k: int, allowed: NDArray[np.bool_], first: int = 0) -> RowHits:
        """The `k` best of the allowed rows from `first` on."""
        parts = []
        for at in range(first // self._rows, len(self._chunks)):
            begin = at * self._rows
            start = max(first - begin, 0)
            here = allowed[begin : begin + len(self._chunks[at])]
            if start:
                here = np.concatenate([np.zeros(start, np.bool_), here[start:]])
            hits = self._chunks[at].best(query, k, here)
            parts.append((hits.rows + begin, hits.scores))
        rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in parts)])
        return ranked(rows, np.concatenate([np.zeros(0, np.float32), *(scores for _, scores in parts)]), k)

    def blank(self, rows: Rows) -> None:
        of_chunk, places = np.divmod(rows, self._rows)
        for at in np.unique(of_chunk).tolist():
            self._chunks[at] = self._chunks[at].blanked(places[of_chunk == at])

    def frozen(self) -> "Chunks":
        """The same rows, whatever is added or blanked from now on: full chunks are shared, the last is copied."""
        chunks = list(self._chunks)
        if chunks and len(chunks[-1]) < self._rows:
            chunks[-1] = chunks[-1].copy()
        return Chunks(self.dimensions, self._rows, chunks)

    def pages(self, rows: Rows, size: int = 8_192) -> Iterator[tuple[Rows, Vectors]]:
        for start in range(0, len(rows), size):
            page = rows[start : start + size]
            yield page, self.take(page)

    def snapshot(self) -> "ChunksSnapshot":
        frozen = self.frozen()
        return ChunksSnapshot(tuple(frozen._chunks), tuple(self._chunks), tuple(c.changes for c in self._chunks))


@dataclass(frozen=True, slots=True)
class ChunksSnapshot:
    """`chunks`: what is to be written; `originals`: the index's own, as they were after so many `changes`."""

    chunks: tuple[Chunk, ...]
    originals: tuple[Chunk, ...]
    changes: tuple[int, ...]

    def write(self, folder: Path) -> list[str]:
        names = []
        for place, (chunk, original, changes) in enumerate(zip(self.chunks, self.originals, self.changes, strict=True)):
            name = original.file if original.changes == changes else None
            if name is None or not (folder / name).exists():
                name = f"{PREFIX}{place:05}-{new_id()}.faiss"
                chunk.write(folder, name)
                original.is_written(name, changes)
                if chunk is original:
                    chunk.map(folder / name)
            names.append(name)
        return names


def load_chunks(folder: Path, names: Sequence[str], dimensions: int, chunk_rows: int) -> Chunks:
    """Raises IndexDamaged."""
    chunks = []
    for place, name in enumerate(names):
        path, last = folder / name, place == len(names) - 1
        check_seal(path)
        index = _read(path, faiss.IO_FLAG_MMAP_IFC)
        if not _is_ours(index, dimensions) or index.ntotal > chunk_rows or (index.ntotal < chunk_rows and not last):
            raise IndexDamaged("another kind of FAISS index", path=str(path), dimensions=dimensions)
        if index.ntotal < chunk_rows:  # it goes on growing: a mapped one can't, FAISS ends the process
            index = _read(path, 0)
        chunk = Chunk(index)
        chunk.is_written(name, 0)
        chunks.append(chunk)
    return Chunks(dimensions, chunk_rows, chunks)


def empty(dimensions: int) -> Any:
    return faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _read(path: Path, flags: int) -> Any:
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise IndexDamaged("not a FAISS file", path=str(path)) from error


def _codes(index: Any) -> NDArray[np.uint8]:
    """The bytes of all rows, uint8 [n, 2 d], without a copy: valid until the next `add`, and while `index` lives."""
    if not index.ntotal:
        return np.zeros((0, index.code_size), np.uint8)
    flat: NDArray[np.uint8] = faiss.rev_swig_ptr(index.codes.data(), index.codes.size())
    return flat.reshape(-1, index.code_size)


def _is_ours(index: Any, dimensions: int) -> bool:
    return (
        isinstance(index, faiss.IndexScalarQuantizer)
        and index.d == dimensions
        and index.metric_type == faiss.METRIC_INNER_PRODUCT
        and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
        and index.codes.size() == index.ntotal * index.code_size
    )
