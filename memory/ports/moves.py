"""Where is it kept what left which tier?"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from memory.domain.moves import Move, NewMove


class MoveRepository(Protocol):
    """A ring: of each tenant the newest moves are kept, up to a number. They go with their session."""

    async def add(self, tenant_id: str, moves: Sequence[NewMove], now: datetime) -> None: ...

    async def page(
        self,
        tenant_id: str,
        audiences: frozenset[str],
        *,
        session_key: int | None,
        before_key: int | None,
        limit: int,
        only_sessions: frozenset[str] | None = None,
    ) -> list[Move]:
        """Those of these visibility classes, newest first."""

    async def forget(self, before: datetime) -> int: ...
