"""What was said: one appended item of a session's log."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from memory.domain.ids import ItemId, event_item
from memory.domain.principals import SHARED, private_to

Metadata = dict[str, Any]

MAX_EVENTS_PER_APPEND = 1_000
MAX_CONTENT_BYTES = 1 << 20


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class EventVisibility(StrEnum):
    SESSION = "session"
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event as a client sends it; `agent_id` is its author."""

    role: Role
    content: str
    event_id: str | None = None
    agent_id: str | None = None
    name: str | None = None
    created_at: datetime | None = None
    metadata: Metadata = field(default_factory=dict)
    visibility: EventVisibility = EventVisibility.SESSION


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log. `seq` counts from 1 without gaps;

    `token_start` is its place on the axis of the session's shared tokens (a private event takes no room there);
    `turn` counts the user events up to it. `redacted`: its content is gone for good, its place and its count stay.
    """

    event_key: int
    session_key: int
    seq: int
    event_id: str
    agent_id: str | None
    role: Role
    name: str | None
    content: str
    metadata: Metadata
    visibility: EventVisibility
    created_at: datetime
    token_count: int
    token_start: int
    turn: int
    redacted: bool = False

    @property
    def item(self) -> ItemId:
        return event_item(self.event_key)

    @property
    def audience(self) -> str:
        """Its visibility class: everything derived from the event carries it."""
        if self.visibility is EventVisibility.PRIVATE:
            return private_to(self.agent_id or "")
        return SHARED


@dataclass(frozen=True, slots=True)
class Extent:
    """Where an event lies on the axis of its session's shared tokens."""

    seq: int
    token_start: int
    token_count: int


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to one append. `repeated`: nothing was stored, this is the first answer again."""

    session_id: str
    first_seq: int
    last_seq: int
    event_ids: tuple[str, ...]
    token_count: int
    repeated: bool = False
