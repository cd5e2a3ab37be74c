"""Which vectors are nearest? FAISS scans them all, in half precision: exact, and no training.

IndexScalarQuantizer with 16-bit floats keeps what the database keeps (2 bytes a number) and scans 100,000 x 384 in
3-4 ms on one core; IndexFlatIP takes 7-17 ms for the same answer because it reads twice the bytes.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from memory.adapters.files import check_seal, replaced
from memory.adapters.vectors.checks import as_mask, as_query, as_rows, as_vectors, ranked
from memory.domain.errors import IndexDamaged
from memory.ports.indexes import RowHits, Rows
from memory.ports.models import Vectors

# The bitmap scan costs about 2 ns a row of the index and 40 ns an allowed row; gathering 1,200-1,800 ns an allowed
# row. Measured at d=384: equal near 1 allowed row in 500, so gathering is for a session inside a large tenant.
_GATHER_BELOW = 1 / 800

# FAISS keeps the k best, but which of several equal ones is left to its heap. A tie across the border is settled
# by asking for more: first this many, then all.
_TIES = 1024

# The stubs show the C++ constructors; the Python ones take arrays and keep them alive as long as themselves.
_Selector: Any = faiss.IDSelectorBitmap
_Parameters: Any = faiss.SearchParameters


class FaissIndex:
    """Readers may run side by side (FAISS releases the GIL); a writer must run alone: `add` moves the memory."""

    def __init__(self, dimensions: int) -> None:
        self._index = _empty(dimensions)

    @property
    def dimensions(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, vectors: Vectors) -> None:
        self._index.add(as_vectors(vectors, self.dimensions))

    def search(self, query: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> RowHits:
        size = len(self)
        mask = None if allowed is None else as_mask(allowed, size)
        candidates = size if mask is None else int(np.count_nonzero(mask))
        k = min(k, candidates)
        if k <= 0:
            as_query(query, self.dimensions)
            return RowHits(np.zeros(0, np.int64), np.zeros(0, np.float32))
        if mask is not None and candidates < size * _GATHER_BELOW:
            rows = np.flatnonzero(mask)
            return ranked(rows, self.scores(query, rows), k)
        return self._scan(as_query(query, self.dimensions), k, candidates, mask)

    def _scan(self, query: Vectors, k: int, candidates: int, mask: NDArray[np.bool_] | None) -> RowHits:
        faiss.omp_set_num_threads(1)  # of this thread: one query can't be split, a second thread would only spin
        selector = None if mask is None else _Selector(np.packbits(mask, bitorder="little"))
        parameters = None if selector is None else _Parameters(sel=selector)
        for wanted in (k + 1, max(16 * k, _TIES), candidates):
            wanted = min(wanted, candidates)
            found, at = self._index.search(query[np.newaxis], wanted, params=parameters)
            scores, rows = found[0][at[0] >= 0], at[0][at[0] >= 0]
            if wanted == candidates or scores[k - 1] > scores[-1]:
                break
        return ranked(rows, scores, k)

    def scores(self, query: Vectors, rows: Rows) -> NDArray[np.float32]:
        # vecdot is one BLAS dot a row: a matrix product may round equal rows differently by their position
        products = np.vecdot(self.vectors(rows), as_query(query, self.dimensions))
        return np.asarray(products, np.float32)

    def vectors(self, rows: Rows) -> Vectors:
        checked = as_rows(rows, len(self))
        if not checked.size:
            return np.zeros((0, self.dimensions), np.float32)
        # FAISS' own reconstruction of these codes takes half as long again
        return _codes(self._index)[checked].view("<f2").astype(np.float32)

    def keep(self, rows: Rows) -> None:
        checked = as_rows(rows, len(self))
        kept = _empty(self.dimensions)
        if checked.size:
            kept.add_sa_codes(_codes(self._index)[checked])
        self._index = kept

    def save(self, path: Path) -> None:
        with replaced(path, sealed=True) as draft:
            faiss.write_index(self._index, str(draft))


class FaissIndexes:
    def create(self, dimensions: int) -> FaissIndex:
        return FaissIndex(dimensions)

    def load(self, path: Path, dimensions: int) -> FaissIndex:
        check_seal(path)
        try:
            loaded = faiss.read_index(str(path))
        except RuntimeError as error:
            raise IndexDamaged("not a FAISS file", path=str(path)) from error
        if not _is_ours(loaded, dimensions):
            raise IndexDamaged("another kind of FAISS index", path=str(path), dimensions=dimensions)
        index = FaissIndex(dimensions)
        index._index = loaded
        return index


def _empty(dimensions: int) -> Any:
    return faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _codes(index: Any) -> NDArray[np.uint8]:
    """The bytes of all rows, uint8 [n, 2 d], without a copy: valid until the next `add`."""
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
