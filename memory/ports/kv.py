"""Who keeps the KV of sessions?"""

from datetime import datetime
from typing import Protocol

from memory.domain.generation import Prompt
from memory.domain.kv import BlockMove, Dropped, KVReport, Prefetched, SessionKV, Suspended, TenantKV


class KVStore(Protocol):
    """KV is a cache, every part of which can be computed again from the log; blocks are found and shared by content.

    Sessions are named by tenant and id. Where None is returned, nothing is kept of the session. All raise
    GeneratorUnavailable.
    """

    def check(self) -> None:
        """Raises NoModelConfigured or KVElsewhere where there is no KV that this could speak of."""

    async def report(self, tenant_id: str, session_id: str) -> KVReport: ...

    async def usage(self, tenant_id: str) -> TenantKV: ...

    async def moves(self, tenant_id: str) -> list[BlockMove]:
        """The latest of a tenant's blocks between tiers, newest first; earlier ones are only counted."""

    async def pin(self, tenant_id: str, session_id: str, until: datetime | None) -> SessionKV | None:
        """What the session has, and adds, stays until then; None: no longer. Raises PinBudgetExceeded."""

    async def prefetch(self, tenant_id: str, session_id: str) -> Prefetched | None:
        """Brings it to the device, as far as the tenant's share of that goes."""

    async def suspend(self, tenant_id: str, session_id: str) -> Suspended | None:
        """Moves it off the device, the unfinished block too; nothing has to be computed again."""

    async def drop(self, tenant_id: str, session_id: str) -> Dropped | None:
        """Drops what no other session has. For good reasons of space: whoever purges calls `forget`."""

    async def warm(self, prompt: Prompt) -> int:
        """Computes ahead what a prompt that goes on after these messages begins with; how many tokens were computed.

        When there is nothing else to do; 0 where it came to nothing.
        """

    async def forget(self, tenant_id: str) -> int:
        """Drops all KV of a tenant, on every device: something that it may hold is purged. The number of blocks."""

    async def verify(self) -> list[str]:
        """What is wrong with the stored blocks; empty when all is well."""
