"""What is kept of a session's KV, and what may its users do with it? Visible to whom the session is."""

from datetime import timedelta

from memory.domain.agents import AgentRole
from memory.domain.errors import NothingKept
from memory.domain.kv import Dropped, KVReport, Prefetched, SessionKV, Suspended, by_tier
from memory.domain.principals import Principal
from memory.ports.jobs import Clock
from memory.ports.kv import KVStore
from memory.ports.storage import Storage
from memory.services import access
from memory.services.warming import Warming


class KV:
    """All raise NotFound, NoModelConfigured, KVElsewhere and GeneratorUnavailable."""

    def __init__(self, storage: Storage, kv: KVStore, clock: Clock, warming: Warming | None = None) -> None:
        self._storage = storage
        self._kv = kv
        self._clock = clock
        self._warming = warming

    async def report(self, principal: Principal, session_id: str) -> KVReport:
        await self._check(principal, session_id)
        return await self._kv.report(principal.tenant_id, session_id)

    async def pin(self, principal: Principal, session_id: str, ttl_seconds: int) -> SessionKV:
        """0 seconds: no longer. Raises PinBudgetExceeded, and NothingKept where there is nothing to pin."""
        await self._check(principal, session_id, AgentRole.WRITER)
        until = self._clock.now() + timedelta(seconds=ttl_seconds) if ttl_seconds else None
        pinned = await self._kv.pin(principal.tenant_id, session_id, until)
        if pinned is None:
            raise NothingKept(
                f"nothing is kept of the session '{session_id}' yet: ask for an answer with this memory_key first"
            )
        return pinned

    async def prefetch(self, principal: Principal, session_id: str) -> Prefetched:
        await self._check(principal, session_id)
        found = await self._kv.prefetch(principal.tenant_id, session_id)
        return found or Prefetched({tier: 0 for tier in by_tier() if tier != "device"}, 0, 0, 0, 0.0)

    async def suspend(self, principal: Principal, session_id: str) -> Suspended:
        await self._check(principal, session_id, AgentRole.WRITER)
        return await self._kv.suspend(principal.tenant_id, session_id) or Suspended(0, 0, 0, 0)

    async def drop(self, principal: Principal, session_id: str) -> Dropped:
        await self._check(principal, session_id, AgentRole.WRITER)
        if self._warming is not None:  # what is computed ahead would be there again
            await self._warming.stop(principal.tenant_id, session_id)
        return await self._kv.drop(principal.tenant_id, session_id) or Dropped(0, 0, by_tier())

    async def _check(self, principal: Principal, session_id: str, needed: AgentRole = AgentRole.READER) -> None:
        async with self._storage.read() as tx:
            await access.session(tx, principal, session_id, needed)
        self._kv.check()
