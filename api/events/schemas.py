"""Events as clients send and read them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from api.values import Answer, Body, ClientId, Content, Count, Metadata, Name, Time
from memory.domain.events import MAX_EVENTS_PER_APPEND, EventVisibility, NewEvent, Role


class Order(StrEnum):
    ASC = "asc"
    DESC = "desc"


class SentEvent(Body):
    event_id: ClientId | None = Field(
        default=None, description="Unique in its session; made by the server when absent."
    )
    agent_id: ClientId | None = Field(default=None, description="The author; the acting agent when absent.")
    role: Role
    content: Content
    name: Name | None = None
    created_at: Time | None = None
    metadata: Metadata = Field(default_factory=dict)
    visibility: EventVisibility = EventVisibility.SESSION

    def to_domain(self) -> NewEvent:
        return NewEvent(
            role=self.role,
            content=self.content,
            event_id=self.event_id,
            agent_id=self.agent_id,
            name=self.name,
            created_at=self.created_at,
            metadata=self.metadata,
            visibility=self.visibility,
        )


class AppendEvents(Body):
    events: Annotated[list[SentEvent], Field(min_length=1, max_length=MAX_EVENTS_PER_APPEND)]
    expected_seq: Count | None = Field(default=None, description="The `last_seq` that the log must have.")

    def to_domain(self) -> list[NewEvent]:
        return [event.to_domain() for event in self.events]


class AppendedAnswer(Answer):
    session_id: str
    first_seq: int
    last_seq: int
    event_ids: list[str]
    token_count: int


class EventAnswer(Answer):
    seq: int
    event_id: str
    agent_id: str | None
    role: Role
    name: str | None
    content: str
    metadata: dict[str, Any]
    visibility: EventVisibility
    created_at: datetime
    token_count: int
    redacted: bool = Field(
        default=False, exclude_if=lambda redacted: not redacted, description="Its content is gone for good."
    )
