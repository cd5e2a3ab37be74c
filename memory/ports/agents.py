"""Who is listed in which session?"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from memory.domain.agents import AgentRole, SessionAgent


class AgentRepository(Protocol):
    async def put(self, session_key: int, agent_id: str, role: AgentRole, now: datetime) -> SessionAgent:
        """Lists the agent or gives it another role, and closes the session to all who are not listed, for good."""

    async def remove(self, session_key: int, agent_id: str) -> bool:
        """False: it was not listed."""

    async def page(self, session_key: int, *, after: str | None, limit: int) -> list[SessionAgent]:
        """By agent_id."""

    async def count(self, session_key: int) -> int: ...

    async def roles(self, session_key: int, agent_ids: Sequence[str]) -> dict[str, AgentRole]:
        """Of those that are listed."""

    async def any_closed_to(self, tenant_id: str, agent_id: str | None) -> bool:
        """Whether the tenant has a closed session that does not list this agent (None: who says no name)."""

    async def inherit(self, parent_key: int, fork_key: int, now: datetime) -> None:
        """Of a closed session: its fork lists the same agents with the same roles."""
