"""Whose memory is it? A tenant, and how much there is of it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Tenant:
    """`purging`: the operation that takes it away; until that is done nobody comes in."""

    tenant_id: str
    created_at: datetime
    space: str | None
    purging: str | None


@dataclass(frozen=True, slots=True)
class Figures:
    sessions: int
    events: int
    tokens: int
    memories: int
    keys: int


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest keys that were given out by a moment: none is given out twice."""

    session_key: int
    event_key: int
    memory_key: int
    segment_key: int
