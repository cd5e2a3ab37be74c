"""Which vectors are nearest? FAISS scans what is allowed while that is little, and probes lists of codes beyond.

    rows     0 ........................ covered ...... n
    lists    [codes around centroids  ]                    where most of many rows are allowed
    chunks   [the vectors themselves, half precision  ]    scanned: few allowed rows, and those after `covered`

Whatever was found by codes is ranked by the vectors themselves. Decision 36 has the measurements.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from memory.adapters.files import remove_others
from memory.adapters.vectors import chunks as chunk_files
from memory.adapters.vectors import lists as list_files
from memory.adapters.vectors.checks import as_mask, as_query, as_rows, as_vectors, ranked
from memory.adapters.vectors.chunks import CHUNK_ROWS, Chunks, ChunksSnapshot, load_chunks
from memory.adapters.vectors.lists import Lists, ListsSnapshot, load_lists
from memory.domain.errors import IndexDamaged, TierUnavailable
from memory.ports.indexes import IndexWork, RowHits, Rows
from memory.ports.models import Vectors

# The bitmap scan costs about 2 ns a row of the index and 40 ns an allowed row; gathering 1,200-1,800 ns an allowed
# row. Measured at d=384: equal near 1 allowed row in 500, so gathering is for a session inside a large tenant.
_GATHER_BELOW = 1 / 800

SCAN_UP_TO = 50_000
"""Allowed rows that are scanned: exact, and no more than 4 ms of a million."""

_PROBES = 48
"""Lists that are probed where everything is allowed; in proportion more where less is: what is allowed may lie far off.

At a million, of which one conversation of ten is in scope, 480 find .98 of the ten nearest, 152 miss eight of some.
"""
_SPARE = 4
_LEAST = 400
"""So many times `k`, and at least so many, are found by codes and ranked by their vectors: 0.4 ms for 400."""
_FILE_FROM = 8_192
"""Rows after `covered` that are scanned at most, but for the time that filing takes: 0.3 ms."""
_FILE_AT_ONCE = 32_768
_OUTGROWN = 4
"""Lists are made anew when there are so many times the rows that they were made for."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tests make them small."""

    chunk_rows: int = CHUNK_ROWS
    scan_up_to: int = SCAN_UP_TO
    file_from: int = _FILE_FROM


class FaissIndex:
    """Readers may run side by side (FAISS releases the GIL); a writer must run alone: `add` moves memory."""

    def __init__(self, dimensions: int, sizes: Sizes = Sizes(), rows: Chunks | None = None) -> None:
        self.sizes = sizes
        self.rows = Chunks(dimensions, sizes.chunk_rows) if rows is None else rows
        self.lists: Lists | None = None
        self.numbering = 0
        """Changes when rows get other numbers: what was prepared before is of no use then."""
        self.blanks = np.zeros(0, np.int64)
        """Rows that were blanked since then."""

    @property
    def dimensions(self) -> int:
        return self.rows.dimensions

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, vectors: Vectors) -> None:
        self.rows.add(as_vectors(vectors, self.dimensions))

    def search(self, query: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> RowHits:
        size, query = len(self), as_query(query, self.dimensions)
        mask = np.ones(size, np.bool_) if allowed is None else as_mask(allowed, size)
        candidates = int(np.count_nonzero(mask))
        k = min(k, candidates)
        if k <= 0:
            return RowHits(np.zeros(0, np.int64), np.zeros(0, np.float32))
        if candidates < size * _GATHER_BELOW:
            rows = np.flatnonzero(mask)
            return ranked(rows, self.scores(query, rows), k)
        faiss.omp_set_num_threads(1)  # of this thread: one query can't be split, a second thread would only spin
        if self.lists is None or candidates <= self.sizes.scan_up_to:
            return self.rows.best(query, k, mask)
        return self._probed(self.lists, query, k, mask, candidates / size)

    def _probed(self, lists: Lists, query: Vectors, k: int, mask: NDArray[np.bool_], share: float) -> RowHits:
        """Widens until `k` are found; when even all lists have too few, everything is scanned."""
        new = self.rows.best(query, k, mask, first=lists.covered)
        probes = min(lists.count, round(_PROBES / share))
        while True:
            rows = lists.candidates(query, max(_SPARE * k, _LEAST), mask[: lists.covered], probes)
            if len(rows) + len(new.rows) >= k:
                both = np.concatenate([rows, new.rows])
                return ranked(both, np.concatenate([self.scores(query, rows), new.scores]), k)
            if probes == lists.count:
                return self.rows.best(query, k, mask)
            probes = min(lists.count, 4 * probes)

    def scores(self, query: Vectors, rows: Rows) -> NDArray[np.float32]:
        # vecdot is one BLAS dot a row: a matrix product may round equal rows differently by their position
        products = np.vecdot(self.vectors(rows), as_query(query, self.dimensions))
        return np.asarray(products, np.float32)

    def vectors(self, rows: Rows) -> Vectors:
        return self.rows.take(as_rows(rows, len(self)))

    def blank(self, rows: Rows) -> None:
        checked = as_rows(rows, len(self))
        self.rows.blank(checked)
        self.blanks = np.concatenate([self.blanks, checked])
        if self.lists is not None:
            self.lists.remove(checked[checked < self.lists.covered])

    def keeping(self, rows: Rows) -> "Compaction":
        return Compaction(self, as_rows(rows, len(self)))

    def upkeep(self) -> IndexWork | None:
        size = len(self)
        if self.lists is None or size >= _OUTGROWN * self.lists.trained_on:
            return Training(self) if size > self.sizes.scan_up_to else None
        return Filing(self, self.lists) if size - self.lists.covered >= self.sizes.file_from else None

    def details(self) -> dict[str, int]:
        lists = self.lists
        return {"lists": 0 if lists is None else lists.count, "in_lists": 0 if lists is None else lists.covered}

    def snapshot(self) -> "FaissSnapshot":
        lists = None if self.lists is None else self.lists.snapshot()
        return FaissSnapshot(self.rows.snapshot(), lists)


class Training:
    """Makes lists for all rows that there are; the old ones, if any, serve meanwhile."""

    name = "train"
    costly = True

    def __init__(self, index: FaissIndex) -> None:
        self._index = index
        self._numbering = index.numbering
        self._rows = index.rows.frozen()
        self._lists: Lists | None = None

    def prepare(self) -> None:
        """Raises TierUnavailable when FAISS gives up, for example for want of memory."""
        try:
            self._lists = self._trained()
        except RuntimeError as error:
            raise TierUnavailable(f"no lists could be made: {error}") from error

    def _trained(self) -> Lists:
        total = len(self._rows)
        count = list_count(total)
        drawn = np.random.default_rng(0).choice(total, min(total, list_files.SAMPLE_PER_LIST * count), replace=False)
        sample = self._rows.take(np.sort(drawn))
        lists = Lists.trained(sample[sample.any(axis=1)], count, total)
        for rows, vectors in self._rows.pages(np.arange(total)):
            lists.file(rows, vectors, lists.assigned(vectors))
        return lists

    def finish(self) -> bool:
        if self._lists is None or self._index.numbering != self._numbering:
            return False
        self._lists.remove(self._index.blanks)  # those of them that were no zeros yet when they were filed
        self._index.lists = self._lists
        return True


class Filing:
    """Puts the rows that came since into the lists."""

    name = "file"
    costly = False

    def __init__(self, index: FaissIndex, lists: Lists) -> None:
        self._index = index
        self._lists = lists
        self._numbering = index.numbering
        self._first = lists.covered
        self._rows = index.rows.frozen()
        self._pages: list[tuple[Rows, Vectors, NDArray[np.int64]]] = []

    def prepare(self) -> None:
        rows = np.arange(self._first, min(len(self._rows), self._first + _FILE_AT_ONCE))
        self._pages = [(page, vectors, self._lists.assigned(vectors)) for page, vectors in self._rows.pages(rows)]

    def finish(self) -> bool:
        index, lists = self._index, self._lists
        if index.lists is not lists or index.numbering != self._numbering or lists.covered != self._first:
            return False
        for page in self._pages:
            lists.file(*page)
        lists.remove(index.blanks[index.blanks >= self._first])
        return True


class Compaction:
    """Leaves only some of the rows that there are, and gives all that follow other numbers."""

    name = "compact"
    costly = True

    def __init__(self, index: FaissIndex, kept: Rows) -> None:
        self._index = index
        self._kept = kept
        self._numbering = index.numbering
        self._rows = index.rows.frozen()
        self._made = Chunks(index.dimensions, index.sizes.chunk_rows)

    def prepare(self) -> None:
        for _, vectors in self._rows.pages(self._kept):
            self._made.add(vectors)

    def finish(self) -> bool:
        index, before = self._index, len(self._rows)
        if index.numbering != self._numbering:
            return False
        for _, vectors in index.rows.pages(np.arange(before, len(index))):
            self._made.add(vectors)
        blanked = np.isin(self._kept, index.blanks)
        if blanked.any():  # while this was prepared
            self._made.blank(np.flatnonzero(blanked))
        if index.lists is not None:
            index.lists = _renumbered(index.lists, self._kept, before)
        index.rows, index.blanks = self._made, np.zeros(0, np.int64)
        index.numbering += 1
        return True


def _renumbered(lists: Lists, kept: Rows, before: int) -> Lists | None:
    """None: there are rows in the lists that came after; new lists are made in good time."""
    if lists.covered > before:
        return None
    lists.renumber(kept[kept < lists.covered])
    return lists


@dataclass(frozen=True, slots=True)
class FaissSnapshot:
    rows: ChunksSnapshot
    lists: ListsSnapshot | None

    def write(self, folder: Path) -> tuple[str, ...]:
        names = self.rows.write(folder)
        return (*names, *(() if self.lists is None else (self.lists.write(folder),)))


class FaissIndexes:
    def __init__(self, sizes: Sizes = Sizes()) -> None:
        self._sizes = sizes

    def create(self, folder: Path, dimensions: int) -> FaissIndex:
        return FaissIndex(dimensions, self._sizes)

    def load(self, folder: Path, names: Sequence[str], dimensions: int) -> FaissIndex:
        rows = sorted(name for name in names if name.startswith(chunk_files.PREFIX))
        lists = [name for name in names if name.startswith(list_files.PREFIX)]
        if len(rows) + len(lists) != len(names) or len(lists) > 1:
            raise IndexDamaged("files of another kind of index", path=str(folder), files=list(names))
        chunks = load_chunks(folder, rows, dimensions, self._sizes.chunk_rows)
        index = FaissIndex(dimensions, self._sizes, chunks)
        index.lists = load_lists(folder, lists[0], dimensions, len(index)) if lists else None
        return index

    def discard(self, folder: Path, keep: Collection[str]) -> None:
        remove_others(folder, keep)


def list_count(rows: int) -> int:
    """A power of two near the root: 256 at 50,000 rows, 1,024 at a million."""
    return 1 << round(float(np.log2(max(rows, 1) ** 0.5)))
