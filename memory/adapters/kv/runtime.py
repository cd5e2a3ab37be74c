"""The KV of this process's model, as far as the tiers have to do with it.

Blocks are found by their content, not by session: what is in a window is kept by being used, and leaves by its value.
So only forgetting has something to do here.
"""

from memory.adapters.kv.null import NullKVStore
from memory.adapters.models.generation import InProcessGenerator


class RuntimeKVStore(NullKVStore):
    def __init__(self, generator: InProcessGenerator) -> None:
        self._generator = generator

    async def forget(self, tenant_id: str) -> int:
        return await self._generator.forget(tenant_id)
