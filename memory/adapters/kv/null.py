"""The do-nothing KV store: no model runtime, so there is no KV to keep."""

from collections.abc import Sequence

from memory.ports.kv import KVUsage, TokenRange


class NullKVStore:
    async def keep(self, session_key: int, ranges: Sequence[TokenRange]) -> None:
        return None

    async def drop(self, session_key: int, ranges: Sequence[TokenRange] | None = None) -> int:
        return 0

    async def forget(self, tenant_id: str) -> int:
        return 0

    async def usage(self, session_key: int) -> KVUsage:
        return KVUsage(blocks=0, bytes=0)

    async def verify(self) -> list[str]:
        return []
