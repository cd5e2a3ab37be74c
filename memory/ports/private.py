"""What is private to one agent, in all of a tenant?"""

from typing import Protocol

from memory.domain.events import Event
from memory.domain.tenants import Highest


class PrivateRepository(Protocol):
    """`upto`: nothing that was written later."""

    async def any(self, tenant_id: str, agent_id: str, upto: Highest) -> bool: ...

    async def session(self, tenant_id: str, agent_id: str, upto: Highest) -> int | None:
        """The first session_key with private events of the agent whose content is there."""

    async def events(self, session_key: int, agent_id: str, upto: Highest, limit: int) -> list[Event]:
        """Those of the session's own rows whose content is there, in order."""

    async def memories(self, tenant_id: str, agent_id: str, upto: Highest, limit: int) -> list[int]:
        """The memory_keys of those that are private now."""

    async def forget_rest(self, tenant_id: str, agent_id: str, upto: Highest) -> dict[str, int]:
        """What memories said while they were private that are shared now, and moves of what was private."""
