"""Which value has each item in a field that the catalogue does not hold?

`metadata.…` is read from the database at the first question of a whole tenant and kept from then on, 4 bytes an item
and every distinct value once: to read a million values takes seconds. Later questions read what is new or edited.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import ItemId, memory_item
from memory.domain.principals import Scope
from memory.domain.recall import FieldTest
from memory.tiers.longterm.catalogue import NO_SESSION, Catalogue, Mask, Rows

_FIELDS = 8
"""Kept of one tenant: those that were asked last."""
_VALUES = 65_536
"""A field with more distinct values, such as an id, is read for each question."""
_NEW = 20_000
"""Items; with more, all are read again."""
_NONE = -1


@dataclass(frozen=True, slots=True)
class Leaf:
    """`values[codes[row]]` is what the item of a row has; -1: nothing."""

    values: list[Any]
    codes: NDArray[np.int32]

    def passes(self, test: FieldTest, rows: Rows | slice) -> Mask:
        passing = np.array([test.holds(value) for value in self.values] + [test.holds(None)], np.bool_)
        return np.asarray(passing[self.codes[rows]])

    @staticmethod
    def of(catalogue: Catalogue, values: Mapping[ItemId, Any]) -> "Leaf":
        codes = np.full(len(catalogue), _NONE, np.int32)
        rows = catalogue.rows(values)
        codes[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        return Leaf(list(values.values()), codes)

    @staticmethod
    def of_sessions(catalogue: Catalogue, scope: Scope, names: Mapping[int, str]) -> "Leaf":
        """The session as part of which the scope shows an item, else its own. `names`: by session_key."""
        keys = _shown_keys(catalogue, scope)
        known = np.array(sorted(names), np.int64)
        if not len(known):
            return Leaf([], np.full(len(keys), _NONE, np.int32))
        places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        codes = np.where((known[places] == keys) & (keys != NO_SESSION), places, _NONE).astype(np.int32)
        return Leaf([names[key] for key in known.tolist()], codes)


@dataclass(slots=True)
class Kept:
    """One field of a whole tenant. stale: items that were edited since, with the number of the edit."""

    catalogue: Catalogue
    codes: NDArray[np.int32]
    values: list[Any] = field(default_factory=list)
    code_of: dict[str, int] = field(default_factory=dict)
    stale: dict[ItemId, int] = field(default_factory=dict)

    def set(self, values: Iterable[tuple[ItemId, Any]]) -> None:
        for item, value in values:
            row = self.catalogue.row(item)
            if row is not None and row < len(self.codes):
                self.codes[row] = self._code(value)

    def leaf(self) -> Leaf:
        """What came since it was asked for has nothing yet: it was not acknowledged when the question came."""
        missing = len(self.catalogue) - len(self.codes)
        return Leaf(self.values, np.concatenate([self.codes, np.full(missing, _NONE, np.int32)]))

    def _code(self, value: Any) -> int:
        """Equal by their JSON, so that true is not 1."""
        code = self.code_of.setdefault(json.dumps(value, sort_keys=True), len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code


@dataclass(frozen=True, slots=True)
class Lacking:
    """What has to be read for a question. items None: of all. `rows`, `stale`: of the index when that was found out."""

    items: tuple[ItemId, ...] | None
    rows: int
    stale: Mapping[ItemId, int]
    edits: int
    """How many there had been by then."""


class Fields:
    """Of one index. `edited` and `put` are for its writer, the rest for readers."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._edits = 0

    def edited(self, item: ItemId) -> None:
        self._edits += 1
        for kept in self._kept.values():
            kept.stale[item] = self._edits

    def kept(self, name: str) -> Kept | None:
        return self._kept.get(name)

    def lacking(self, name: str, catalogue: Catalogue) -> Lacking | None:
        """None: nothing."""
        kept, rows = self._kept.get(name), len(catalogue)
        if kept is None or kept.catalogue is not catalogue or rows - len(kept.codes) > _NEW:
            return Lacking(None, rows, {}, self._edits)
        new = catalogue.column("item")[len(kept.codes) :].tolist()
        if not new and not kept.stale:
            return None
        return Lacking((*new, *kept.stale), rows, dict(kept.stale), self._edits)

    def put(self, name: str, catalogue: Catalogue, lacking: Lacking, values: Iterable[tuple[ItemId, Any]]) -> bool:
        """False: they are not kept: there are too many distinct values, or an item was edited while all were read."""
        kept = self._kept.get(name)
        if lacking.items is None and lacking.edits != self._edits:
            return False
        if lacking.items is None or kept is None or kept.catalogue is not catalogue:
            kept = self._kept[name] = Kept(catalogue, np.full(lacking.rows, _NONE, np.int32))
        elif lacking.rows > len(kept.codes):
            more = np.full(lacking.rows - len(kept.codes), _NONE, np.int32)
            kept.codes = np.concatenate([kept.codes, more])
        old = catalogue.rows(lacking.stale)
        kept.codes[old[old >= 0]] = _NONE
        kept.set(values)
        for item, edit in lacking.stale.items():
            if kept.stale.get(item) == edit:  # not edited again meanwhile
                del kept.stale[item]
        self._kept.move_to_end(name)
        while len(self._kept) > _FIELDS:
            self._kept.popitem(last=False)
        if len(kept.values) > _VALUES:
            del self._kept[name]
        return name in self._kept

    def clear(self) -> None:
        """The rows have other numbers from now on."""
        self._kept.clear()


def _shown_keys(catalogue: Catalogue, scope: Scope) -> NDArray[np.int64]:
    session, seq, item = (catalogue.column(name) for name in ("session", "seq", "item"))
    keys: NDArray[np.int64] = session.copy()
    asked = set(scope.session_keys or ())
    for one in reversed(scope.inherited):  # of several heirs the first one counts
        key, stretch = one.stretch.session_key, one.stretch
        if scope.session_keys is None or key in asked:
            continue
        rows = catalogue.log(key, stretch.first_seq, stretch.last_seq)
        keys[rows[rows >= 0]] = one.heir
        keys[(session == key) & (seq == 0) & (item <= memory_item(stretch.last_memory))] = one.heir
    return keys
