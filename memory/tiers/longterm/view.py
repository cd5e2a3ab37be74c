"""Which rows does a question choose from, and what are they like as a whole?

The view of a whole tenant is the same for every plain question until the index changes or a validity begins or ends. It
is kept, since making it takes time in proportion to the tenant (1.3 ms at 100,000 items).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from memory.ports.indexes import VectorIndex
from memory.tiers.base import Floats
from memory.tiers.longterm.catalogue import Catalogue, Mask, Rows

# The mean and spread of cosines in a scope of any size are known well enough from so many of its items.
_SAMPLE = 300


@dataclass(frozen=True)
class View:
    """`rows` ascending. `since`, `until`: seconds since the epoch between which no validity begins or ends."""

    catalogue: Catalogue
    vectors: VectorIndex
    rows: Rows
    since: float
    until: float

    @staticmethod
    def plain(catalogue: Catalogue, vectors: VectorIndex, in_scope: Rows, now: float) -> "View":
        """What is valid now of what is in scope."""
        begins, ends = catalogue.column("valid_from")[in_scope], catalogue.column("valid_to")[in_scope]
        later = np.concatenate([begins[begins > now], ends[ends > now]])
        valid = in_scope[(begins <= now) & (ends > now)]
        return View(catalogue, vectors, valid, now, float(later.min(initial=np.inf)))

    @cached_property
    def allowed(self) -> Mask:
        """bool [len(catalogue) + 1]: the last place, False, is for vectors of no item."""
        mask = np.zeros(len(self.catalogue) + 1, np.bool_)
        mask[self.rows] = True
        return mask

    @cached_property
    def length(self) -> float:
        """Terms of an item, on average."""
        return float(self.catalogue.column("terms")[self.rows].mean()) if len(self.rows) else 0.0

    def cosines(self, query: Floats | None) -> Floats:
        """Of some items, evenly drawn and always the same."""
        return np.asarray(np.vecdot(self._sample, query) if query is not None else [], np.float32)

    @cached_property
    def _sample(self) -> Floats:
        """The first vector of each."""
        rows = self.rows[self.catalogue.column("vectors")[self.rows] > 0]
        drawn = np.random.default_rng(0).choice(rows, min(_SAMPLE, len(rows)), replace=False)
        return self.vectors.vectors(self.catalogue.column("first_vector")[np.sort(drawn)])
