"""Whose is each row of the vector index?"""

import numpy as np
from numpy.typing import NDArray

from memory.tiers.longterm.catalogue import Catalogue, Rows

NOBODY = -1


class Owners:
    """The catalogue's row for each vector row, 4 bytes each. Mutable, one writer.

    unblanked: rows that belong to nobody any more, and still hold their vector.
    """

    def __init__(self, catalogue: Catalogue, total: int) -> None:
        has = np.flatnonzero(catalogue.column("vectors"))
        counts = catalogue.column("vectors")[has].astype(np.int64)
        self._rows = np.full(total, NOBODY, np.int32)
        self._rows[ranges(catalogue.column("first_vector")[has], counts)] = np.repeat(has, counts)
        self._size = total
        self.unblanked = np.flatnonzero(self._rows == NOBODY)
        self.nobodys = len(self.unblanked)

    def of(self, total: int) -> NDArray[np.int32]:
        """Of the first rows of the index; a view, valid until the next `own`."""
        return self._rows[:total]

    def own(self, first: int, count: int, row: int) -> None:
        """Mutates: new vectors, `first` is where the index ended."""
        end = first + count
        if end > len(self._rows):
            room = end + end // 8 + 1_024
            self._rows = np.concatenate([self._rows, np.full(room - len(self._rows), NOBODY, np.int32)])
        self._rows[first:end] = row
        self._size = end

    def disown(self, first: int, count: int) -> None:
        """Mutates: no search finds these vectors any more."""
        self._rows[first : first + count] = NOBODY
        self.unblanked = np.concatenate([self.unblanked, np.arange(first, first + count)])
        self.nobodys += count

    def blanked(self) -> None:
        """Mutates: nothing is left of what belonged to nobody."""
        self.unblanked = np.zeros(0, np.int64)

    def owned(self) -> Rows:
        """Vector rows that are somebody's, ascending."""
        return np.flatnonzero(self._rows[: self._size] != NOBODY)


def ranges(first: NDArray[np.signedinteger], counts: Rows) -> Rows:
    """first[0], first[0] + 1, … (counts[0] of them), first[1], …"""
    offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first.astype(np.int64), counts) + offsets
