"""What left which tier for which, when and why? No text: a move says which events it is about by their seqs."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from memory.domain.recall import TierName


class PolicyName(StrEnum):
    """How a tier chooses what goes. The first is the service's own, the others are there to compare with."""

    LRU_SIMILARITY = "lru_similarity"
    LRU = "lru"
    LFU = "lfu"
    FIFO = "fifo"
    RANDOM = "random"


class Reason(StrEnum):
    """joined, founded: a cluster. least_value: whatever it is like. redundant: it is much like what stays, and would
    have stayed without that. passed_by: too old to stay when first seen. window_slid: newer events took its place.
    """

    JOINED = "joined"
    FOUNDED = "founded"
    LEAST_VALUE = "least_value"
    REDUNDANT = "redundant"
    PASSED_BY = "passed_by"
    WINDOW_SLID = "window_slid"
    LONGEST_UNUSED = "longest_unused"
    LEAST_USED = "least_used"
    FIRST_IN = "first_in"
    DRAWN = "drawn"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a score is the sum of: see tiers/eviction.py."""

    recency: float
    use: float
    importance: float
    cost: float
    redundancy: float


@dataclass(frozen=True, slots=True)
class NewMove:
    """Of the events `first_seq` to `last_seq`, or of some of them. `origin`, `target`: long-term holds all anyway.

    score: of a single piece, None where nothing was compared. size: bytes of a segment, tokens of a window.
    """

    session_key: int
    audience: str
    origin: TierName
    target: TierName
    reason: Reason
    first_seq: int
    last_seq: int
    pieces: int
    size: int
    unit: str
    score: float | None = None
    parts: Parts | None = None
    cluster_key: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """As it was kept."""

    move_key: int
    session_id: str
    at: datetime
    what: NewMove
