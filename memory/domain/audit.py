"""Who did what, and to which session? Ids and outcomes only: no text ever comes into an entry."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """`number` is given by the database, in the order of writing; 0 before that.

    `caller`: a key_id, or whom a token names; None: nobody had to say. `action`: as `events.append`. `subject`: what
    else it was done to, a memory or a key for instance. `status`: the HTTP status of the answer.
    """

    number: int
    tenant_id: str
    at: datetime
    caller: str | None
    agent_id: str | None
    action: str
    session_id: str | None
    subject: str | None
    status: int
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for; None: anything. `since` inclusive, `until` exclusive."""

    session_id: str | None = None
    caller: str | None = None
    agent_id: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
