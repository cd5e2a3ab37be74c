"""Which rows does a question choose from, and what are they like as a whole?

The view of a whole tenant is the same for every plain question until a validity begins or ends. It is kept and grows
with what is added, since making it takes time in proportion to the tenant.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memory.ports.indexes import VectorIndex
from memory.tiers.base import Floats
from memory.tiers.longterm.catalogue import Catalogue, Mask, Rows

# The mean and spread of cosines in a scope of any size are known well enough from so many of its items.
_SAMPLE = 300
_DRAWN_FROM = 20 * _SAMPLE
"""Rows that are looked at for the sample: to look at all takes milliseconds of a million."""
_NEWEST = 4_096
"""Rows that are looked at first for the newest ones."""


class View:
    """`allowed`: bool [len(catalogue)]. since, until: seconds since the epoch; no validity begins or ends between.

    lasting: nothing in the catalogue has an end, so that whatever the scope shows is valid.
    """

    def __init__(
        self, catalogue: Catalogue, vectors: VectorIndex, allowed: Mask, since: float, until: float, lasting: bool
    ) -> None:
        self.allowed = allowed
        self.since = since
        self.until = until
        self.lasting = lasting
        self.count = int(np.count_nonzero(allowed))
        self._catalogue = catalogue
        self._vectors = vectors
        self._terms: int | None = None
        self._of_vectors = np.zeros(0, np.bool_)
        self._drawn: tuple[int, Floats] | None = None

    @staticmethod
    def plain(catalogue: Catalogue, vectors: VectorIndex, shown: Mask, now: float) -> "View":
        """What is valid now of what is shown."""
        begin, end = catalogue.column("valid_from"), catalogue.column("valid_to")
        timed = np.flatnonzero((begin > now) | (end < np.inf))
        timed = timed[shown[timed]]
        moments = np.concatenate([begin[timed], end[timed]])
        allowed = shown.copy()
        allowed[timed] = (begin[timed] <= now) & (end[timed] > now)
        until = float(moments[moments > now].min(initial=np.inf))
        return View(catalogue, vectors, allowed, now, until, lasting=not len(timed))

    @cached_property
    def rows(self) -> Rows:
        """Ascending."""
        return np.flatnonzero(self.allowed)

    def newest(self, limit: int) -> Rows:
        """The last rows, ascending."""
        begin, span = len(self.allowed), _NEWEST
        while begin:
            begin, span = max(0, begin - span), 2 * span
            if np.count_nonzero(self.allowed[begin:]) >= limit:
                break
        found = np.flatnonzero(self.allowed[begin:]) + begin
        return found[max(0, len(found) - limit) :]

    def of_vectors(self, owners: NDArray[np.int32]) -> Mask:
        """bool [len(owners)]: which vectors may be found. `owners`: the row of each, -1: of none.

        Several readers may ask at once: each finds the same.
        """
        known = self._of_vectors
        if len(known) < len(owners):
            new = owners[len(known) :]
            known = np.concatenate([known, self.allowed[np.maximum(new, 0)] & (new >= 0)])
            self._of_vectors = known
        return known[: len(owners)]

    def grow(self, more: Mask) -> None:
        """Mutates, as the writer: whether the rows that have come to the catalogue are among them."""
        self.allowed = np.concatenate([self.allowed, more])
        self.count += int(np.count_nonzero(more))
        if self._terms is not None and len(more):
            self._terms += int(self._catalogue.column("terms")[-len(more) :].sum(where=more))
        self.__dict__.pop("rows", None)

    @property
    def length(self) -> float:
        """Terms of an item, on average."""
        if self._terms is None:
            self._terms = int(self._catalogue.column("terms")[self.rows].sum())
        return self._terms / self.count if self.count else 0.0

    def cosines(self, query: Floats | None) -> Floats:
        """Of some items, evenly drawn, and the same until there are twice as many."""
        return np.asarray(np.vecdot(self._sample(), query) if query is not None else [], np.float32)

    def _sample(self) -> Floats:
        """The first vector of each."""
        if self._drawn is not None and len(self._drawn[1]) == _SAMPLE and self.count <= 2 * self._drawn[0]:
            return self._drawn[1]
        draw = np.random.default_rng(0)
        rows = self._some(draw)
        rows = rows[self._catalogue.column("vectors")[rows] > 0]
        rows = np.sort(draw.choice(rows, min(_SAMPLE, len(rows)), replace=False))
        sample = self._vectors.vectors(self._catalogue.column("first_vector")[rows].astype(np.int64))
        self._drawn = (self.count, sample)
        return sample

    def _some(self, draw: np.random.Generator) -> Rows:
        """All, or enough of them."""
        total = len(self.allowed)
        if self.count <= max(_DRAWN_FROM, total // 4):
            return self.rows
        drawn = np.unique(draw.integers(0, total, _DRAWN_FROM))
        return drawn[self.allowed[drawn]]
