"""What is the right answer? Every inner product in numpy: the baseline of the tests and of the benchmarks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory.adapters.files import check_seal, remove_others, replaced
from memory.adapters.vectors.checks import as_mask, as_query, as_rows, as_vectors, ranked
from memory.domain.errors import IndexDamaged
from memory.domain.ids import new_id
from memory.ports.indexes import RowHits, Rows
from memory.ports.models import Vectors


class FlatIndex:
    """Vectors in half precision, as the database stores them; every change makes a new array."""

    def __init__(self, dimensions: int) -> None:
        self._codes: NDArray[np.float16] = np.zeros((0, dimensions), np.float16)
        self._numbering = 0

    @property
    def dimensions(self) -> int:
        return int(self._codes.shape[1])

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, vectors: Vectors) -> None:
        codes = as_vectors(vectors, self.dimensions).astype(np.float16)
        self._codes = np.concatenate([self._codes, codes])

    def search(self, query: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> RowHits:
        rows = np.arange(len(self)) if allowed is None else np.flatnonzero(as_mask(allowed, len(self)))
        return ranked(rows, self.scores(query, rows), max(k, 0))

    def scores(self, query: Vectors, rows: Rows) -> NDArray[np.float32]:
        products = np.vecdot(self.vectors(rows), as_query(query, self.dimensions))
        return np.asarray(products, np.float32)

    def vectors(self, rows: Rows) -> Vectors:
        return self._codes[as_rows(rows, len(self))].astype(np.float32)

    def blank(self, rows: Rows) -> None:
        codes = self._codes.copy()
        codes[as_rows(rows, len(self))] = 0
        self._codes = codes

    def keeping(self, rows: Rows) -> "_Keeping":
        return _Keeping(self, as_rows(rows, len(self)), len(self), self._numbering)

    def upkeep(self) -> None:
        return None

    def details(self) -> dict[str, int]:
        return {}

    def snapshot(self) -> "_Snapshot":
        return _Snapshot(self._codes)


@dataclass(frozen=True, slots=True)
class _Keeping:
    index: FlatIndex
    rows: Rows
    size: int
    numbering: int
    name = "compact"
    costly = True

    def prepare(self) -> None: ...

    def finish(self) -> bool:
        if self.index._numbering != self.numbering:
            return False
        codes = self.index._codes
        self.index._codes = np.concatenate([codes[self.rows], codes[self.size :]])
        self.index._numbering += 1
        return True


@dataclass(frozen=True, slots=True)
class _Snapshot:
    codes: NDArray[np.float16]

    def write(self, folder: Path) -> tuple[str, ...]:
        name = f"rows-{new_id()}.npy"
        with replaced(folder / name, sealed=True) as draft, draft.open("wb") as file:
            np.save(file, self.codes, allow_pickle=False)
        return (name,)


class FlatIndexes:
    def create(self, folder: Path, dimensions: int) -> FlatIndex:
        return FlatIndex(dimensions)

    def load(self, folder: Path, names: Sequence[str], dimensions: int) -> FlatIndex:
        if len(names) != 1:
            raise IndexDamaged("not one file of vectors", path=str(folder), files=list(names))
        path = folder / names[0]
        check_seal(path)
        try:
            with path.open("rb") as file:
                codes = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise IndexDamaged("not a .npy file", path=str(path)) from error
        if codes.dtype != np.float16 or codes.ndim != 2 or codes.shape[1] != dimensions:
            raise IndexDamaged("another kind of array", path=str(path), shape=codes.shape, dimensions=dimensions)
        index = FlatIndex(dimensions)
        index._codes = codes
        return index

    def discard(self, folder: Path, keep: Collection[str]) -> None:
        remove_others(folder, keep)
