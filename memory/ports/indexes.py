"""What finds the nearest vectors and the matching words?"""

from collections.abc import Callable, Collection, Sequence
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


class IndexWork(Protocol):
    """What makes an index faster or smaller, done beside it: neither readers nor the writer wait for the long part."""

    @property
    def name(self) -> str:
        """What is done, in a word: for logs."""

    @property
    def costly(self) -> bool:
        """Takes so long that it is worth a save at once."""

    def prepare(self) -> None:
        """The long part, in a thread of its own, beside readers and the writer. Changes nothing that they see."""

    def finish(self) -> bool:
        """Mutates the index, quickly; as the writer. False: it was renumbered meanwhile, and nothing has changed."""


class VectorSnapshot(Protocol):
    """An index as it was at one moment, whatever becomes of it since."""

    def write(self, folder: Path) -> tuple[str, ...]:
        """The names of the files in `folder` that hold it, each complete and flushed to disk; raises OSError.

        Files are sealed (`memory.adapters.files`) and never changed again: what an earlier snapshot wrote is left as it
        was, and named again where it is still right.
        """


class VectorIndex(Protocol):
    """sync; one writer at a time, readers beside readers. Rows are numbered from 0 in the order of adding."""

    @property
    def dimensions(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, vectors: Vectors) -> None:
        """Mutates: appends [n, d] as rows `len(self)` to `len(self) + n - 1`. The caller keeps its array."""

    def search(self, query: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> RowHits:
        """The `k` rows with the largest inner product with `query` [d], fewer only where fewer are allowed.

        `allowed`: bool [len(self)], the scope: applied before ranking, never after. The scores are exact; of many
        allowed rows (more than the index scans) a few of the nearest may be missed for others that are nearly as near.
        """

    def scores(self, query: Vectors, rows: Rows) -> NDArray[np.float32]:
        """Exact inner products of `query` [d] with these rows, in their order."""

    def vectors(self, rows: Rows) -> Vectors:
        """The vectors of these rows as float32 [m, d] (a copy)."""

    def blank(self, rows: Rows) -> None:
        """Mutates: these rows become zeros, and what was derived from them goes, from the next save on disk as well.

        They keep their numbers until `keeping`; nobody may allow them in a search from now on.
        """

    def keeping(self, rows: Rows) -> IndexWork:
        """When it is finished these rows (ascending) are the first, in this order; those added meanwhile follow."""

    def upkeep(self) -> IndexWork | None:
        """What the index needs now to stay fast at its size; None: nothing. Called as a reader."""

    def details(self) -> dict[str, int]:
        """What an operator may want to know of it."""

    def snapshot(self) -> VectorSnapshot:
        """Called as a reader; it is written beside readers and the writer."""


class VectorIndexes(Protocol):
    """Makes and opens vector indexes of one technology."""

    def create(self, folder: Path, dimensions: int) -> VectorIndex:
        """`folder`: where its snapshots will be written."""

    def load(self, folder: Path, names: Sequence[str], dimensions: int) -> VectorIndex:
        """What a snapshot wrote. Raises IndexDamaged when a file is missing, cut off, changed or of another kind."""

    def discard(self, folder: Path, keep: Collection[str]) -> None:
        """Removes from `folder` all files but these, and what the others stood for elsewhere."""


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


class LexicalRewrite(Protocol):
    """An index that is written anew beside the one that is read. Nobody commits until it is finished or cancelled."""

    def add(self, documents: Sequence[LexicalDocument]) -> None:
        """Each item once in all."""

    def finish(self) -> None:
        """Mutates the index: it holds exactly what was added, and its files no term of anything else (invariant I5).

        What was put or removed since the rewrite began comes on top.
        """

    def cancel(self) -> None:
        """The index stays as it is. May be called at any time, also when it is over."""


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
        """Mutates: effective for the next search. Their terms may stay in the files until a rewrite."""

    def search(self, terms: Sequence[str], k: int, scope: LexicalScope) -> LexicalHits: ...

    def commit(self) -> None:
        """Mutates: makes all puts and removes durable in the index's folder."""

    def of_session(self, session_key: int) -> list[ItemId]:
        """The items of a session's documents."""

    def rewriting(self) -> LexicalRewrite: ...

    def missing(self, documents: Sequence[LexicalDocument]) -> list[ItemId]:
        """Those that are not there, or with another number of terms."""

    def holds_term(self, term: str) -> bool:
        """Whether the term dictionary of the committed files still knows this term."""

    def close(self) -> None: ...


class LexicalIndexes(Protocol):
    def open(self, folder: Path) -> LexicalIndex:
        """Opens the index in `folder`, or makes an empty one there.

        Raises IndexDamaged when what is there can't be read.
        """
