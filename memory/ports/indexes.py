"""What finds the nearest vectors and the matching words?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import ItemId
from memory.ports.models import Vectors

Rows = NDArray[np.int64]
Items = NDArray[np.int64]
Accept = Callable[[Items], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class RowHits:
    """Best first. rows: int64 [m], scores: float32 [m] (inner products)."""

    rows: Rows
    scores: NDArray[np.float32]


class VectorIndex(Protocol):
    """sync; one writer at a time, readers beside readers. Rows are numbered from 0 in the order of adding."""

    @property
    def dimensions(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, vectors: Vectors) -> None:
        """Mutates: appends [n, d] as rows `len(self)` to `len(self) + n - 1`. The caller keeps its array."""

    def search(self, query: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> RowHits:
        """The `k` rows with the largest inner product with `query` [d], fewer where fewer are allowed.

        `allowed`: bool [len(self)], the scope: applied before ranking, never after.
        """

    def scores(self, query: Vectors, rows: Rows) -> NDArray[np.float32]:
        """Exact inner products of `query` [d] with these rows, in their order."""

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors of these rows as float32 [m, d] (a copy)."""

    def keep(self, rows: Rows) -> None:
        """Mutates: only these rows stay, renumbered in this order; the others' bytes are gone from the next save."""

    def save(self, path: Path) -> None:
        """Writes the whole index to one file, complete and flushed to disk when this returns (write, fsync, rename)."""


class VectorIndexes(Protocol):
    """Makes and opens vector indexes of one technology."""

    def create(self, dimensions: int) -> VectorIndex: ...

    def load(self, path: Path, dimensions: int) -> VectorIndex:
        """Raises IndexDamaged when the file is missing, cut off or of another kind."""


@dataclass(frozen=True, slots=True)
class LexicalDocument:
    """`audience`: its visibility class. `session_key` None: a memory of the tenant."""

    item: ItemId
    session_key: int | None
    audience: str
    text: str


@dataclass(frozen=True, slots=True)
class LexicalHits:
    """Best first.

    items: int64 [m]. scores: float32 [m], BM25 with the scope's own document frequencies. matches: bool [m, terms],
    which of the distinct terms of the query, in the order of their first appearance, each item contains. term_weights:
    float32 [terms], their inverse document frequencies in the scope; a term that nothing in scope contains weighs most.
    """

    items: Items
    scores: NDArray[np.float32]
    matches: NDArray[np.bool_]
    term_weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LexicalScope:
    """`session_keys` None: all. Documents without a session are in scope whenever their audience is.

    `accept`: a further condition on items; the search widens until `k` accepted items are found or none is left.
    """

    session_keys: tuple[int, ...] | None
    audiences: frozenset[str]
    accept: Accept | None = None


class LexicalIndex(Protocol):
    """sync; one writer at a time, readers beside readers. What was put is found at once, committed or not."""

    def __len__(self) -> int: ...

    @property
    def uncommitted(self) -> int:
        """Documents put or removed since the last commit."""

    def analyze(self, text: str) -> list[str]:
        """The terms of a text as the index sees them: lower-case, stemmed, without stop words, in order."""

    def put(self, documents: Sequence[LexicalDocument]) -> None:
        """Mutates: adds, or replaces the document of the same item."""

    def remove(self, items: Sequence[ItemId]) -> None:
        """Mutates: effective for the next search. Its terms may stay in the files until `rewrite`."""

    def search(self, terms: Sequence[str], k: int, scope: LexicalScope) -> LexicalHits: ...

    def commit(self) -> None:
        """Mutates: makes all puts and removes durable in the index's folder."""

    def rewrite(self, documents: Sequence[LexicalDocument]) -> None:
        """Mutates: the index then holds exactly these, and its files no term of anything else (invariant I5)."""

    def holds_term(self, term: str) -> bool:
        """Whether the term dictionary of the committed files still knows this term."""

    def close(self) -> None: ...


class LexicalIndexes(Protocol):
    def open(self, folder: Path) -> LexicalIndex:
        """Opens the index in `folder`, or makes an empty one there.

        Raises IndexDamaged when what is there can't be read.
        """
