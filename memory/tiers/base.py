"""What does a tier do?

Every tier is a cache of the event log behind one shape: `absorb` what is new, `recall` candidates for a question,
`evict` what has no room, `forget` what was purged, and tell its `stats` and whether it is sound (`verify`).
A piece of text may be in several tiers at once; leaving one only drops a cache.
"""

import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import ItemId
from memory.domain.principals import Scope
from memory.domain.recall import Filter, TierName

Floats = NDArray[np.float32]

NEIGHBOURS = (-2, -1, 0, 1, 2)
"""Candidates know the events up to two places before and after them in their session."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What an item must be to count as a match, apart from being visible. Times: seconds since the epoch.

    `outside`: shared events from this seq on do not count: the one session that is asked has them in its window.
    `shown`, `hidden`: memories that were (not) valid as of then, whatever their present rows say.
    """

    now: float
    as_of: float | None = None
    kinds: frozenset[str] | None = None
    filter: Filter | None = None
    outside: int | None = None
    shown: frozenset[ItemId] = frozenset()
    hidden: frozenset[ItemId] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and of what.

    `vector` waits until the question is embedded, which takes longer than all else: a tier first does what needs no
    vector. Float32 [d], unit length; None when the embedder can't answer (words alone then decide).
    `space`: of that vector; what a tier holds of another one is not compared with it.
    `asked`: monotonic seconds when it came: what was acknowledged by then must be found.
    """

    text: str
    vector: Callable[[], Awaitable[Floats | None]]
    scope: Scope
    conditions: Conditions
    wanted: int
    space: str
    asked: float = math.inf


_PRIOR = 4
_USUAL_MEAN, _USUAL_DEVIATION = 0.1, 0.1
"""Of the cosines of a question with all turns of a conversation (LoCoMo, MiniLM)."""


@dataclass(frozen=True, slots=True)
class Population:
    """Everything in scope that matches, so that a score means the same among ten events and among a million.

    mean, deviation: of `dense`. size: number of items. length: mean number of terms of an item (without stop words).
    """

    mean: float
    deviation: float
    size: int
    length: float

    @staticmethod
    def of(cosines: Floats, size: int, length: float) -> "Population":
        """Of the cosines that are known (not nan). A few say little: right after a bulk append one event has a vector.

        So they are counted together with `_PRIOR` imagined ones of a usual spread.
        """
        known = cosines[~np.isnan(cosines)].astype(np.float64)
        count = len(known) + _PRIOR
        mean = (float(known.sum()) + _PRIOR * _USUAL_MEAN) / count
        squares = float(((known - mean) ** 2).sum()) + _PRIOR * (_USUAL_DEVIATION**2 + (_USUAL_MEAN - mean) ** 2)
        return Population(mean, float(np.sqrt(squares / count)), size, length)


@dataclass(frozen=True, slots=True)
class Candidates:
    """n visible items that match the conditions, and what is known of each, as arrays of length n.

    asks: it contains a question. tells_time: it contains a word of time. speaker: the question names its author.
    episodes: equal for events of one sitting, -1: none. neighbours: int32 [n, 5], the places in these arrays of the
    visible events two before to two after it in its session (the middle is itself), -1 where there is none.
    dense: cosine of its best segment with the question, nan without a vector. lexical: BM25, 0 without a common term.
    coverage: bool [n, terms], which of the question's distinct `terms` it contains. term_weights: float32 [terms],
    their inverse document frequencies in the scope. named_terms: bool [terms], those that are part of an agent's name.
    """

    items: NDArray[np.int64]
    sessions: NDArray[np.int64]
    seqs: NDArray[np.int64]
    created_at: NDArray[np.float64]
    asks: NDArray[np.bool_]
    tells_time: NDArray[np.bool_]
    speaker: NDArray[np.bool_]
    episodes: NDArray[np.int32]
    neighbours: NDArray[np.int32]
    dense: Floats
    lexical: Floats
    coverage: NDArray[np.bool_]
    terms: tuple[str, ...]
    term_weights: Floats
    named_terms: NDArray[np.bool_]
    population: Population

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class TierStats:
    """items: what the tier counts (tokens, segments, items); bytes: what it occupies; pending: not yet absorbed."""

    items: int
    bytes: int
    pending: int = 0
    details: dict[str, float | int | str] = field(default_factory=dict)


class Tier(Protocol):
    name: ClassVar[TierName]
    holds: ClassVar[str]
    bound: ClassVar[str]

    async def absorb(self, tenant_id: str, session_key: int | None = None) -> int:
        """Takes in what is new, a part at a time; the number of items taken in, 0 when nothing is left to take in."""

    async def recall(self, question: Question) -> Candidates:
        """Everything in scope that may answer, not yet ranked. Raises TierUnavailable."""

    async def evict(self, tenant_id: str, session_key: int | None = None) -> int:
        """Lets go of what exceeds the tier's bound; the number of items that left. Nothing is lost."""

    async def forget(self, tenant_id: str, session_keys: Collection[int] = ()) -> dict[str, int]:
        """Removes every trace of what was purged from the database; counts by kind."""

    async def stats(self, tenant_id: str) -> TierStats: ...

    async def verify(self, tenant_id: str) -> list[str]:
        """What is wrong, in words; empty when the tier agrees with the database."""
