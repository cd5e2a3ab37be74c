"""How do the processes of one database agree on whose turn it is in a session?"""

from datetime import datetime, timedelta
from typing import Protocol

from memory.domain.generation import Ticket


class TurnRepository(Protocol):
    """One queue a session. A ticket that is not renewed within its lease lapses: whoever comes next may remove it."""

    async def draw(
        self, tenant_id: str, session_id: str, lease: timedelta, now: datetime, *, most: int
    ) -> Ticket | None:
        """A ticket at the end of the queue; None: `most` stand there already."""

    async def ahead(self, ticket: Ticket, now: datetime) -> int:
        """How many tickets that have not lapsed come before this one."""

    async def step_up(self, ticket: Ticket, lease: timedelta, now: datetime) -> int | None:
        """Removes what lapsed before this ticket and renews it. How many still come before it; None: it is gone."""

    async def renew(self, ticket: Ticket, lease: timedelta, now: datetime) -> bool:
        """False: it lapsed and was removed."""

    async def give_back(self, ticket: Ticket) -> bool:
        """False: it was removed before."""

    async def forget(self, lapsed_before: datetime) -> int: ...
