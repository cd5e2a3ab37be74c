"""Who keeps the KV of a window?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TokenRange:
    """Consecutive events of a session's shared log, and their place on its token axis (end exclusive)."""

    first_seq: int
    last_seq: int
    token_start: int
    token_end: int

    @property
    def tokens(self) -> int:
        return self.token_end - self.token_start


@dataclass(frozen=True, slots=True)
class KVUsage:
    blocks: int
    bytes: int


class KVStore(Protocol):
    """Keeps the KV of a session's window: a cache, every part of which can be computed again from the log."""

    async def keep(self, session_key: int, ranges: Sequence[TokenRange]) -> None:
        """These ranges are in the window: hold their KV if it is at hand."""

    async def drop(self, session_key: int, ranges: Sequence[TokenRange] | None = None) -> int:
        """Forgets these ranges (None: all of the session) on every device. Returns the number of blocks dropped."""

    async def forget(self, tenant_id: str) -> int:
        """Drops all KV of a tenant, on every device: something that it may hold is purged. The number of blocks."""

    async def usage(self, session_key: int) -> KVUsage: ...

    async def verify(self) -> list[str]:
        """What is wrong with the stored blocks; empty when all is well."""
