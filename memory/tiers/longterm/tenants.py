"""Which tenants' indexes are in memory? Opened when they are asked, closed when they were idle longest."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from memory.domain.errors import TierUnavailable
from memory.tiers.longterm.opened import Home, OpenTenant
from memory.tiers.longterm.opening import Building, Report, clear, open_tenant


class Tenants:
    """One event loop only. `patience`: seconds after which who asks is told that the index is not there yet."""

    def __init__(self, home: Callable[[str], Home], report: Report, *, most: int, patience: float) -> None:
        self._home = home
        self._report = report
        self._most = most
        self._patience = patience
        self._open: dict[str, OpenTenant] = {}
        self._coming: dict[str, tuple[asyncio.Task[None], Building]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def opened(self) -> list[OpenTenant]:
        return list(self._open.values())

    def is_open(self, tenant_id: str) -> bool:
        return tenant_id in self._open

    @asynccontextmanager
    async def using(self, tenant_id: str) -> AsyncIterator[OpenTenant]:
        """A tenant that stays open inside the block. Raises TierUnavailable while its index is being built."""
        while tenant_id not in self._open:
            await self._wait_for(tenant_id)
        tenant = self._open[tenant_id]
        tenant.last_used = time.monotonic()
        async with self.holding(tenant):
            yield tenant

    @asynccontextmanager
    async def holding(self, tenant: OpenTenant) -> AsyncIterator[None]:
        """It stays open inside the block, and counts as idle nevertheless."""
        tenant.users += 1
        tenant.unused.clear()
        try:
            yield
        finally:
            tenant.users -= 1
            if not tenant.users:
                tenant.unused.set()

    async def close_surplus(self) -> int:
        """Closes those that were idle longest, beyond the number that may stay; how many."""
        idle = sorted(self._open.values(), key=lambda tenant: tenant.last_used)
        closed = 0
        for tenant in idle[: max(0, len(idle) - self._most)]:
            async with self._lock(tenant.tenant_id):  # nobody opens its files while they are written
                if not tenant.users and self._open.get(tenant.tenant_id) is tenant:
                    del self._open[tenant.tenant_id]
                    await tenant.close()
                    closed += 1
        return closed

    async def clear_closed(self, tenant_id: str) -> None:
        """Removes the files of a tenant that is not open. Waits for one that is being opened."""
        async with self._lock(tenant_id):
            if tenant_id not in self._open:
                await self._clear(tenant_id)

    async def drop(self, tenant_id: str) -> None:
        """Nothing of the tenant is left in memory or on disk. Waits for who uses it or is opening it."""
        async with self._lock(tenant_id):
            tenant = self._open.pop(tenant_id, None)
            if tenant is not None:
                await tenant.unused.wait()
                await tenant.drop()
            await self._clear(tenant_id)

    async def _clear(self, tenant_id: str) -> None:
        home = self._home(tenant_id)
        await asyncio.to_thread(clear, home)
        await asyncio.to_thread(shutil.rmtree, home.folder)

    async def close(self) -> None:
        for task, _ in list(self._coming.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for tenant in self._open.values():
            await tenant.close()
        self._open.clear()

    async def _wait_for(self, tenant_id: str) -> None:
        """One opens it for all that ask meanwhile; nobody has to stay for that."""
        if tenant_id not in self._coming:
            building = Building()
            task = asyncio.create_task(self._bring(tenant_id, building))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waits is told
            self._coming[tenant_id] = (task, building)
        task, building = self._coming[tenant_id]
        await asyncio.wait({task}, timeout=self._patience)
        if not task.done():
            raise TierUnavailable(f"the tenant's long-term index can't answer yet: {building}")
        if not task.cancelled():
            task.result()

    async def _bring(self, tenant_id: str, building: Building) -> None:
        try:
            async with self._lock(tenant_id):
                if tenant_id not in self._open:
                    self._open[tenant_id] = await open_tenant(self._home(tenant_id), self._report, building)
        finally:
            del self._coming[tenant_id]

    def _lock(self, tenant_id: str) -> asyncio.Lock:
        return self._locks.setdefault(tenant_id, asyncio.Lock())
