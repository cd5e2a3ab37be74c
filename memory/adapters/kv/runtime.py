"""The KV of this process's model, as far as the tiers have to do with it.

Blocks are found by their content, not by session: what is in a window is kept by being used, and leaves by its value.
"""

from collections.abc import Sequence

from memory.adapters.models.generation import InProcessGenerator
from memory.ports.kv import KVUsage, TokenRange


class RuntimeKVStore:
    def __init__(self, generator: InProcessGenerator) -> None:
        self._generator = generator

    async def keep(self, session_key: int, ranges: Sequence[TokenRange]) -> None:
        return None

    async def drop(self, session_key: int, ranges: Sequence[TokenRange] | None = None) -> int:
        return 0

    async def forget(self, tenant_id: str) -> int:
        return await self._generator.forget(tenant_id)

    async def usage(self, session_key: int) -> KVUsage:
        return KVUsage(blocks=0, bytes=0)

    async def verify(self) -> list[str]:
        return []
