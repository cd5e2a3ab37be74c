"""What is the right answer? Every inner product in numpy: the baseline of the tests and of the benchmarks."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory.adapters.files import check_seal, replaced
from memory.adapters.vectors.checks import as_mask, as_query, as_rows, as_vectors, ranked
from memory.domain.errors import IndexDamaged
from memory.ports.indexes import RowHits, Rows
from memory.ports.models import Vectors


class FlatIndex:
    """Vectors in half precision, as the database stores them; `add` copies everything. Saved as a sealed .npy file."""

    def __init__(self, dimensions: int) -> None:
        self._codes: NDArray[np.float16] = np.zeros((0, dimensions), np.float16)

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

    def keep(self, rows: Rows) -> None:
        self._codes = self._codes[as_rows(rows, len(self))]

    def save(self, path: Path) -> None:
        with replaced(path, sealed=True) as draft, draft.open("wb") as file:
            np.save(file, self._codes, allow_pickle=False)


class FlatIndexes:
    def create(self, dimensions: int) -> FlatIndex:
        return FlatIndex(dimensions)

    def load(self, path: Path, dimensions: int) -> FlatIndex:
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
