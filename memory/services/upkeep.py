"""What must be looked after, whether or not anybody asks? Lost jobs are sent again; what has expired or is old goes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from memory.domain.errors import StratamemError
from memory.ports.jobs import Clock, JobQueue
from memory.ports.storage import Storage
from memory.services.keeping import remove
from memory.services.reembedding import drop_others
from memory.services.tasks import FIRST_STEP, of_one_process

logger = logging.getLogger(__name__)

_BATCH = 500
_LAPSED = timedelta(hours=1)
"""A turn that was silent for longer does not go on."""


class Upkeep:
    def __init__(
        self,
        storage: Storage,
        jobs: JobQueue,
        clock: Clock,
        *,
        idle: timedelta,
        retention: timedelta,
        audit_retention: timedelta = timedelta(days=365),
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._clock = clock
        self._idle = idle
        self._retention = retention
        self._leaves_traces = False
        self._audit_retention = audit_retention

    async def sweep(self) -> int:
        """Sends every operation again at which nobody works: a lost message delays a job, it never loses it."""
        async with self._storage.read() as tx:
            abandoned = await tx.operations.abandoned(self._clock.now(), self._idle, _BATCH)
        ours = [operation for operation in abandoned if not of_one_process(operation)]
        for operation in ours:
            self._jobs.send(FIRST_STEP[operation.kind], operation.operation_id)
        return len(ours)

    async def expire(self) -> int:
        """Removes the memories whose time to live is over; the number of them.

        The indexes follow by the change feed, which takes their texts out of the files as a purge does.
        """
        removed = 0
        while True:
            async with self._storage.write() as tx:
                gone = await tx.memories.expired(self._clock.now(), _BATCH)
                await remove(tx, gone)
            removed += len(gone)
            self._leaves_traces = self._leaves_traces or bool(gone)
            if len(gone) < _BATCH:
                break
        if removed or self._leaves_traces:  # of a time when the files could not be cleaned
            await self._storage.erase_leftovers()
            self._leaves_traces = False
        return removed

    async def tidy(self) -> None:
        """Forgets finished operations, answers of old Idempotency-Keys, moves, audit, turns of killed processes, and
        the vectors of embedding models that were replaced."""
        now = self._clock.now()
        before = now - self._retention
        async with self._storage.write() as tx:
            await tx.operations.forget(before)
            await tx.events.forget_answers(before)
            await tx.turns.forget(now - _LAPSED)
            await tx.moves.forget(before)
            await tx.audit.forget(now - self._audit_retention)
        async with self._storage.read() as tx:
            tenants = await tx.tenants.ids()
        for tenant_id in tenants:
            await drop_others(self._storage, tenant_id)


@asynccontextmanager
async def flushed(flush: Callable[[], Awaitable[None]], every: float) -> AsyncIterator[None]:
    """Within it, notes that are kept in memory are written every so many seconds, and once more at its end."""
    task = asyncio.create_task(_flush_regularly(flush, every))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await flush()


async def _flush_regularly(flush: Callable[[], Awaitable[None]], every: float) -> None:
    while True:
        await asyncio.sleep(every)
        with contextlib.suppress(StratamemError):  # what waits for the database is written next time
            await flush()
