"""Memories as clients send and read them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field

from api.values import Answer, Body, ClientId, Content, Flag, Metadata, Reason, Time, unsent
from memory.domain.memories import (
    MAX_MEMORIES_PER_REQUEST,
    MemoryKind,
    MemorySource,
    MemoryVisibility,
    NewMemory,
)
from memory.services.keeping import Added

_CENTURY = 100 * 366 * 24 * 3_600


class Source(Body):
    """The events that a memory was derived from: it goes when they are purged."""

    session_id: ClientId
    event_ids: Annotated[list[ClientId], Field(min_length=1, max_length=1_000)]

    def to_domain(self) -> MemorySource:
        return MemorySource(self.session_id, tuple(self.event_ids))


class SentMemory(Body):
    memory_id: ClientId | None = Field(default=None, description="Made by the server when absent.")
    text: Content
    kind: MemoryKind
    session_id: ClientId | None = None
    agent_id: ClientId | None = Field(default=None, description="Whose memory it is; the acting agent when absent.")
    visibility: MemoryVisibility | None = Field(
        default=None, description="When absent: `session` with a `session_id`, else `tenant`."
    )
    metadata: Metadata = Field(default_factory=dict)
    valid_from: Time | None = None
    valid_to: Time | None = None
    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=_CENTURY)] | None = None
    pinned: Flag = False
    source: Source | None = None

    def to_domain(self) -> NewMemory:
        fallback = MemoryVisibility.TENANT if self.session_id is None else MemoryVisibility.SESSION
        return NewMemory(
            text=self.text,
            kind=self.kind,
            visibility=self.visibility or fallback,
            memory_id=self.memory_id,
            session_id=self.session_id,
            agent_id=self.agent_id,
            metadata=self.metadata,
            valid_from=self.valid_from,
            valid_to=self.valid_to,
            ttl_seconds=self.ttl_seconds,
            pinned=self.pinned,
            source=None if self.source is None else self.source.to_domain(),
        )


class AddMemories(Body):
    memories: Annotated[list[SentMemory], Field(min_length=1, max_length=MAX_MEMORIES_PER_REQUEST)]

    def to_domain(self) -> list[NewMemory]:
        return [memory.to_domain() for memory in self.memories]


class PatchMemory(Body):
    """Only what is sent changes; the old version is kept. `valid_to: null` makes it valid for ever."""

    text: Content = unsent()
    metadata: Metadata = unsent()
    valid_to: Time | None = unsent()
    pinned: Flag = unsent()
    visibility: MemoryVisibility = unsent()

    def changes(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


class SupersedeMemory(Body):
    """What takes its place: of the same scope and kind, valid from now on."""

    text: Content
    reason: Reason | None = None


class RestoreMemory(Body):
    reason: Reason | None = None


class SourceAnswer(Answer):
    session_id: str
    event_ids: list[str]


class MemoryAnswer(Answer):
    memory_id: str
    text: str
    kind: MemoryKind
    session_id: str | None
    agent_id: str | None
    visibility: MemoryVisibility
    metadata: dict[str, Any]
    valid_from: datetime | None
    valid_to: datetime | None
    expires_at: datetime | None
    pinned: bool
    source: SourceAnswer | None
    version: int
    token_count: int
    created_at: datetime
    updated_at: datetime
    access_count: int
    last_accessed_at: datetime | None
    superseded_by: str | None = Field(description="What took its place; `restore` undoes that.")
    supersedes: str | None = Field(description="Whose place it took.")
    near_duplicate_of: str | None = Field(
        description="An earlier memory of its scope that says the same in slightly other words. Both are kept."
    )


class VersionAnswer(Answer):
    """What the memory was from `changed_at` on. `changed_by`: the agent, else the key."""

    version: int
    text: str
    metadata: dict[str, Any]
    visibility: MemoryVisibility
    valid_to: datetime | None
    pinned: bool
    superseded_by: str | None
    changed_at: datetime
    changed_by: str | None
    reason: str | None


class AddedMemory(MemoryAnswer):
    """`deduplicated`: the same text was there in the same scope; this is that memory."""

    deduplicated: bool = False

    @classmethod
    def of(cls, added: Added) -> Self:
        answer = cls.model_validate(added.memory)
        answer.deduplicated = added.deduplicated
        return answer


class AddedMemories(Answer):
    items: list[AddedMemory]
