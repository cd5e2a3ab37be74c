"""In which row of the catalogue is an item?

A dict from item to row takes some 120 bytes an item, more than all that the catalogue knows of it. Here what is old is
a sorted array (12 bytes an item) and only what is new is in a dict, until that has grown too and is merged.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import ItemId

Rows = NDArray[np.int64]

_LEAST = 1_024
_SHARE = 1 / 32
"""Of the sorted items, that may be new before they are merged: each item is then moved some 32 times at most."""
_GONE = -1


class Places:
    """Mutable, one writer."""

    def __init__(self, items: Rows | None = None) -> None:
        """`items`: those of the rows 0, 1, 2, …"""
        given = np.zeros(0, np.int64) if items is None else items
        order = np.argsort(given, kind="stable")
        self._items = given[order]
        self._rows = order.astype(np.int32)
        self._new: dict[ItemId, int] = {}
        self._live = len(given)

    def __len__(self) -> int:
        return self._live

    def get(self, item: ItemId) -> int | None:
        row = self._new.get(item)
        if row is None:
            place = self._place(item)
            row = _GONE if place is None else int(self._rows[place])
        return None if row == _GONE else row

    def of(self, items: Iterable[int]) -> Rows:
        """int64: the row of each item, -1 where one is unknown."""
        wanted = np.fromiter(items, np.int64)
        rows = np.full(len(wanted), _GONE, np.int64)
        if len(self._items):
            places = np.minimum(np.searchsorted(self._items, wanted), len(self._items) - 1)
            rows = np.where(self._items[places] == wanted, self._rows[places], _GONE).astype(np.int64)
        if self._new:
            for at in np.flatnonzero(rows == _GONE).tolist():
                rows[at] = self._new.get(int(wanted[at]), _GONE)
        return rows

    def put(self, item: ItemId, row: int) -> None:
        """Mutates: an item that was unknown."""
        self._new[item] = row
        self._live += 1
        if len(self._new) > max(_LEAST, len(self._items) * _SHARE):
            self._merge()

    def pop(self, item: ItemId) -> int | None:
        """Mutates: the row of the item, which is unknown from now on."""
        row = self._new.pop(item, None)
        place = None if row is not None else self._place(item)
        if place is not None and self._rows[place] != _GONE:
            row = int(self._rows[place])
            self._rows[place] = _GONE
        self._live -= row is not None
        return row

    def _place(self, item: ItemId) -> int | None:
        place = int(np.searchsorted(self._items, item))
        return place if place < len(self._items) and self._items[place] == item else None

    def _merge(self) -> None:
        kept = self._rows != _GONE
        items = np.concatenate([self._items[kept], np.fromiter(self._new.keys(), np.int64)])
        rows = np.concatenate([self._rows[kept], np.fromiter(self._new.values(), np.int32)])
        order = np.argsort(items, kind="stable")
        self._items, self._rows, self._new = items[order], rows[order], {}
