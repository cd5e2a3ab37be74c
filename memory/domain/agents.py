"""Which agents take part in a session, and what may each of them do?"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AgentRole(StrEnum):
    """A reader reads; a writer also adds to the log and to its memories; an owner also says who takes part, and may
    purge it."""

    OWNER = "owner"
    WRITER = "writer"
    READER = "reader"

    def allows(self, needed: "AgentRole") -> bool:
        return _RANKS[self] >= _RANKS[needed]

    @property
    def enough(self) -> tuple["AgentRole", ...]:
        """The roles that allow it."""
        return tuple(role for role in AgentRole if role.allows(self))


_RANKS = {AgentRole.READER: 0, AgentRole.WRITER: 1, AgentRole.OWNER: 2}

MAX_AGENTS = 1_000
"""Listed in one session."""


@dataclass(frozen=True, slots=True)
class SessionAgent:
    agent_id: str
    role: AgentRole
    added_at: datetime
