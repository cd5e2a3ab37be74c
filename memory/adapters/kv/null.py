"""The do-nothing KV store: there is no KV of ours to keep."""

from datetime import datetime

from memory.domain.errors import NoModelConfigured, StratamemError
from memory.domain.generation import Prompt
from memory.domain.kv import BlockMove, Dropped, KVReport, Prefetched, SessionKV, Suspended, TenantKV, by_tier


class NullKVStore:
    """`reason`: what `check` raises."""

    def __init__(self, reason: StratamemError | None = None) -> None:
        self._reason = reason or NoModelConfigured()

    def check(self) -> None:
        raise self._reason

    async def report(self, tenant_id: str, session_id: str) -> KVReport:
        return KVReport(None, await self.usage(tenant_id))

    async def usage(self, tenant_id: str) -> TenantKV:
        return TenantKV(by_tier(), by_tier(), 0, 0)

    async def moves(self, tenant_id: str) -> list[BlockMove]:
        return []

    async def pin(self, tenant_id: str, session_id: str, until: datetime | None) -> SessionKV | None:
        return None

    async def prefetch(self, tenant_id: str, session_id: str) -> Prefetched | None:
        return None

    async def suspend(self, tenant_id: str, session_id: str) -> Suspended | None:
        return None

    async def drop(self, tenant_id: str, session_id: str) -> Dropped | None:
        return None

    async def warm(self, prompt: Prompt) -> int:
        return 0

    async def forget(self, tenant_id: str) -> int:
        return 0

    async def verify(self) -> list[str]:
        return []
