"""A long-term record that somebody wrote down: fact, preference, episode, summary, document chunk, note."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from memory.domain.events import Metadata
from memory.domain.ids import ItemId, memory_item
from memory.domain.principals import SHARED, TENANT_WIDE, private_to

MAX_MEMORIES_PER_REQUEST = 1_000
MAX_TEXT_BYTES = 1 << 20


class MemoryKind(StrEnum):
    FACT = "fact"
    PREFERENCE = "preference"
    EPISODE = "episode"
    SUMMARY = "summary"
    DOCUMENT = "document"
    NOTE = "note"


class MemoryVisibility(StrEnum):
    PRIVATE = "private"
    SESSION = "session"
    TENANT = "tenant"


@dataclass(frozen=True, slots=True)
class MemorySource:
    """The events that a memory was derived from: it goes when they are purged."""

    session_id: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewMemory:
    text: str
    kind: MemoryKind
    visibility: MemoryVisibility
    memory_id: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    metadata: Metadata = field(default_factory=dict)
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    ttl_seconds: int | None = None
    pinned: bool = False
    source: MemorySource | None = None


@dataclass(frozen=True, slots=True)
class MemoryVersion:
    """What a memory said from `changed_at` on, who said so and why. Its first version is how it was written."""

    version: int
    text: str
    metadata: Metadata
    visibility: MemoryVisibility
    valid_to: datetime | None
    pinned: bool
    superseded_by: str | None
    changed_at: datetime
    changed_by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Memory:
    memory_key: int
    tenant_id: str
    memory_id: str
    session_key: int | None
    session_id: str | None
    agent_id: str | None
    kind: MemoryKind
    visibility: MemoryVisibility
    text: str
    metadata: Metadata
    valid_from: datetime | None
    valid_to: datetime | None
    expires_at: datetime | None
    pinned: bool
    source: MemorySource | None
    version: int
    token_count: int
    created_at: datetime
    updated_at: datetime
    access_count: int
    last_accessed_at: datetime | None
    superseded_by: str | None = None
    supersedes: str | None = None
    near_duplicate_of: str | None = None
    """What took its place, whose place it took, and which one of its scope says the same: each a memory_id."""

    @property
    def item(self) -> ItemId:
        return memory_item(self.memory_key)

    @property
    def audience(self) -> str:
        match self.visibility:
            case MemoryVisibility.PRIVATE:
                return private_to(self.agent_id or "")
            case MemoryVisibility.SESSION:
                return SHARED
            case MemoryVisibility.TENANT:
                return TENANT_WIDE

    def valid_at(self, moment: datetime) -> bool:
        """What was written down later is valid from its `valid_from` on."""
        begins = self.valid_from or self.created_at
        return begins <= moment and (self.valid_to is None or moment < self.valid_to)

    def expired(self, now: datetime) -> bool:
        """Its time to live is over: it is gone, whether or not its rows are."""
        return self.expires_at is not None and self.expires_at <= now

    def ended(self, now: datetime) -> bool:
        """Whether its validity or its time to live is over."""
        return any(end is not None and end <= now for end in (self.valid_to, self.expires_at))

    @property
    def etag(self) -> str:
        return f'"{self.memory_key}-{self.version}"'


@dataclass(frozen=True, slots=True)
class Then:
    """A memory as it was at an earlier moment. `reworded`: with another text or other metadata than today.

    `visibility`: today's.
    """

    memory: Memory
    reworded: bool
    visibility: MemoryVisibility
