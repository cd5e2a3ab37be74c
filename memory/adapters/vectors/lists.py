"""Which rows may be nearest, when there are too many to scan? Lists of one-bit codes around centroids.

FAISS' IVF with RaBitQ codes (Gao and Long 2024): a row takes 64 bytes at d=384 (one bit a number, two factors, its
number). What is found here is a guess in the order of an estimate: the caller ranks it by the vectors themselves. The
estimate is good when no number of a vector weighs more than the others, so all are rotated first, at random.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from memory.adapters.files import check_seal, replaced
from memory.domain.errors import IndexDamaged
from memory.domain.ids import new_id
from memory.ports.indexes import Rows
from memory.ports.models import Vectors

PREFIX = "lists-"

SAMPLE_PER_LIST = 64
"""Rows that k-means sees: more costs time and finds no more."""
_ROUNDS = 10
_QUERY_BITS = 8
"""Of a number of the query: with FAISS' default, floats, a search takes thirty times as long and finds no more."""
_SEED = 0

# The stubs show the C++ constructors; the Python ones take arrays and keep them alive as long as themselves.
_Bitmap: Any = faiss.IDSelectorBitmap
_Batch: Any = faiss.IDSelectorBatch
_Parameters: Any = faiss.IVFRaBitQSearchParameters


class Lists:
    """Rows 0 to `covered` - 1, but for those that are zeros. One writer alone, readers beside readers.

    trained_on: how many rows there were when the centroids were made.
    """

    def __init__(self, whole: Any, covered: int, trained_on: int) -> None:
        """`whole`: the lists behind their rotation."""
        self._whole = whole
        self._rotation: Any = faiss.downcast_VectorTransform(whole.chain.at(0))
        self._index: Any = faiss.downcast_index(whole.index)
        self.covered = covered
        self.trained_on = trained_on
        self._changes = 0
        self._written: tuple[str, int] | None = None

    @staticmethod
    def trained(sample: Vectors, lists: int, trained_on: int) -> "Lists":
        """No rows yet. Takes all of one core for a while: 2,048 lists at d=384 about 20 seconds."""
        faiss.omp_set_num_threads(1)  # of this thread: the others are for those who ask
        dimensions = sample.shape[1]
        rotation: Any = faiss.RandomRotationMatrix(dimensions, dimensions)
        rotation.init(_SEED)
        quantizer: Any = faiss.IndexFlatIP(dimensions)
        index: Any = faiss.IndexIVFRaBitQ(quantizer, dimensions, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.seed, index.cp.max_points_per_centroid = _ROUNDS, _SEED, SAMPLE_PER_LIST
        index.train(rotation.apply(sample))
        whole: Any = faiss.IndexPreTransform(rotation, index)
        for part, owner in ((quantizer, index), (index, whole), (rotation, whole)):
            part.this.disown()
            owner.own_fields = True
        return Lists(whole, 0, trained_on)

    @property
    def count(self) -> int:
        return int(self._index.nlist)

    def assigned(self, vectors: Vectors) -> NDArray[np.int64]:
        """The list of each vector, -1 for zeros. Most of the work of `file`, and changes nothing."""
        faiss.omp_set_num_threads(1)
        _, nearest = self._index.quantizer.search(self._rotation.apply(vectors), 1)
        return np.where(vectors.any(axis=1), nearest[:, 0], -1)

    def file(self, rows: Rows, vectors: Vectors, assigned: NDArray[np.int64]) -> None:
        """Mutates: rows, their vectors and their lists, continuing where it ended."""
        listed = np.flatnonzero(assigned >= 0)
        rotated = self._rotation.apply(np.ascontiguousarray(vectors[listed]))
        parts = (rotated, *(np.ascontiguousarray(part[listed]) for part in (rows, assigned)))
        self._index.add_core(len(listed), *(faiss.swig_ptr(part) for part in parts))
        self.covered = int(rows[-1]) + 1
        self._changes += 1

    def candidates(self, query: Vectors, k: int, allowed: NDArray[np.bool_], probes: int) -> Rows:
        """About the `k` nearest of the allowed rows in the `probes` nearest lists, in no order to rely on."""
        faiss.omp_set_num_threads(1)  # one query can't be split, a second thread would only spin
        bits = np.packbits(allowed, bitorder="little")
        parameters = _Parameters(sel=_Bitmap(bits), nprobe=probes, qb=_QUERY_BITS)
        _, found = self._index.search(self._rotation.apply(query[np.newaxis]), k, params=parameters)
        rows: Rows = found[0][found[0] >= 0]
        return rows

    def remove(self, rows: Rows) -> None:
        """Mutates."""
        if len(rows) and self._index.remove_ids(_Batch(rows)):
            self._changes += 1

    def renumber(self, kept: Rows) -> None:
        """Mutates: only these rows (ascending) stay, as 0, 1, 2, …"""
        gone = np.ones(self.covered, np.bool_)
        gone[kept] = False
        self.remove(np.flatnonzero(gone))
        new = np.cumsum(~gone) - 1
        for number in range(self.count):
            size = self._index.invlists.list_size(number)
            if size:
                rows = faiss.rev_swig_ptr(self._index.invlists.get_ids(number), size)
                rows[:] = new[rows]
        self.covered = len(kept)
        self._changes += 1

    def snapshot(self) -> "ListsSnapshot":
        if self._written is not None and self._written[1] == self._changes:
            return ListsSnapshot(self, self._written[0])
        name = f"{PREFIX}{self.covered}-{self.trained_on}-{new_id()}.faiss"
        return ListsSnapshot(self, name, faiss.serialize_index(self._whole), self._changes)

    def is_written(self, name: str, changes: int) -> None:
        self._written = (name, changes)


@dataclass(frozen=True, slots=True)
class ListsSnapshot:
    """`content`: None where the file is written already; as the lists were after so many `changes`."""

    lists: Lists
    name: str
    content: NDArray[np.uint8] | None = None
    changes: int = 0

    def write(self, folder: Path) -> str:
        if self.content is not None:
            with replaced(folder / self.name, sealed=True) as draft, draft.open("wb") as file:
                file.write(self.content.data)
            self.lists.is_written(self.name, self.changes)
        return self.name


def load_lists(folder: Path, name: str, dimensions: int, rows: int) -> Lists:
    """Raises IndexDamaged."""
    check_seal(folder / name)
    try:
        covered, trained_on = (int(part) for part in name.split("-")[1:3])
        whole: Any = faiss.read_index(str(folder / name))
    except (RuntimeError, ValueError) as error:
        raise IndexDamaged("not a FAISS file", path=str(folder / name)) from error
    if not _is_ours(whole, dimensions) or covered > rows:
        raise IndexDamaged("another kind of FAISS index", path=str(folder / name), dimensions=dimensions)
    lists = Lists(whole, covered, trained_on)
    lists.is_written(name, 0)
    return lists


def _is_ours(whole: Any, dimensions: int) -> bool:
    index: Any = faiss.downcast_index(whole.index) if isinstance(whole, faiss.IndexPreTransform) else None
    ours = isinstance(index, faiss.IndexIVFRaBitQ) and whole.chain.size() == 1
    return ours and index.metric_type == faiss.METRIC_INNER_PRODUCT and bool(index.d == whole.d == dimensions)
