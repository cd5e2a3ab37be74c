"""Who did what to which session? Noted in memory and written together; what can't be undone is written before it is
answered."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence

from memory.domain.audit import Entry, Search
from memory.domain.errors import StorageUnavailable
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

logger = logging.getLogger(__name__)

_MOST = 100_000
"""Entries that wait for a database that is away: about 20 MB."""
_BATCH = 100
"""Written in one transaction: on SQLite appends wait for it meanwhile, for some milliseconds."""
_PART = 1_000


class Audit:
    """One event loop only."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._noted: deque[Entry] = deque()
        self._turn = asyncio.Lock()

    def note(
        self,
        tenant_id: str,
        action: str,
        status: int,
        *,
        caller: str | None = None,
        agent_id: str | None = None,
        session_ids: Sequence[str] = (),
        subject: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """An entry for each session, or one without; written by the next `flush`."""
        now = self._clock.now()
        for session_id in session_ids or (None,):
            self._noted.append(
                Entry(0, tenant_id, now, caller, agent_id, action, session_id, subject, status, request_id)
            )
        while len(self._noted) > _MOST:
            self._noted.popleft()
            logger.error("an entry of the audit is lost: the database was away for too long")

    async def flush(self) -> None:
        """Writes what was noted; what can't be written is kept for the next time. Raises StorageUnavailable."""
        async with self._turn:
            while self._noted:
                batch = [self._noted.popleft() for _ in range(min(len(self._noted), _BATCH))]
                try:
                    async with self._storage.write() as tx:
                        await tx.audit.add(batch)
                except BaseException:
                    self._noted.extendleft(reversed(batch))
                    raise

    async def settle(self) -> None:
        """As `flush`; a database that is away now is written to later, since what was done can't be taken back."""
        try:
            await self.flush()
        except StorageUnavailable:
            logger.warning("the audit can't be written now: %d entries wait", len(self._noted))

    async def page(self, tenant_id: str, search: Search, *, before: int | None, limit: int) -> list[Entry]:
        """Newest first, with what this process has not written yet. Raises StorageUnavailable."""
        await self.flush()
        async with self._storage.read() as tx:
            return await tx.audit.page(tenant_id, search, after=before, limit=limit, descending=True)

    async def export(self, tenant_id: str, search: Search) -> AsyncIterator[list[Entry]]:
        """All of it, oldest first, in parts. Raises StorageUnavailable."""
        await self.flush()
        after: int | None = None
        while True:
            async with self._storage.read() as tx:
                part = await tx.audit.page(tenant_id, search, after=after, limit=_PART, descending=False)
            if part:
                yield part
            if len(part) < _PART:
                return
            after = part[-1].number
