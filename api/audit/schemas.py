"""The audit as operators read it."""

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import Field

from api.values import CLIENT_ID_PATTERN, Answer, Time
from memory.domain.audit import Search

_IdFilter = Annotated[str | None, Query(pattern=CLIENT_ID_PATTERN)]
_CALLER = r"^[A-Za-z0-9._:|@/\-]{1,160}$"


class EntryAnswer(Answer):
    number: int = Field(description="Grows from entry to entry; numbers may be missing.")
    at: datetime
    caller: str | None = Field(description="The key_id, or whom a token names; null: no key was needed.")
    agent_id: str | None
    action: str = Field(examples=["sessions.purge"])
    session_id: str | None
    subject: str | None = Field(description="What else it was done to: a memory, a key, an operation, a fork.")
    status: int = Field(description="Of the answer; 403: it was refused, 499: the client left before it.")
    request_id: str | None


async def search(
    session_id: _IdFilter = None,
    caller: Annotated[str | None, Query(pattern=_CALLER)] = None,
    agent_id: _IdFilter = None,
    action: Annotated[str | None, Query(pattern=r"^[a-z_]{1,32}\.[a-z_]{1,31}$")] = None,
    since: Annotated[Time | None, Query(description="From then on.")] = None,
    until: Annotated[Time | None, Query(description="Before then.")] = None,
) -> Search:
    return Search(session_id, caller, agent_id, action, since, until)
