"""The KV of this process's model: what is asked of it crosses to the runtime's thread, and comes back as plain data."""

from memory.adapters.kv.reporting import ReportingKVStore
from memory.adapters.models.generation import InProcessGenerator, settled
from memory.domain.generation import Prompt
from model_runtime.kv.reports import Report


class RuntimeKVStore(ReportingKVStore):
    def __init__(self, generator: InProcessGenerator) -> None:
        self._generator = generator

    async def warm(self, prompt: Prompt) -> int:
        return await self._generator.warm(prompt)

    async def forget(self, tenant_id: str) -> int:
        return await self._generator.forget(tenant_id)

    async def _ask(self, what: str, tenant_id: str, session_id: str, until: float | None = None) -> Report | None:
        return await settled(self._generator.runtime.kv(what, tenant_id, session_id, until))
