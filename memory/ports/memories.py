"""What does the memory ask its database about what somebody wrote down?"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from memory.domain.forgetting import Outline
from memory.domain.lineage import Lineage
from memory.domain.memories import Memory, MemorySource, MemoryVersion, MemoryVisibility, Then
from memory.domain.principals import Reach
from memory.domain.recall import Use


class MemoryRepository(Protocol):
    async def lock_texts(self, tenant_id: str, scope_hashes: Collection[bytes]) -> None:
        """Nobody else writes these texts into their scopes until the unit of work ends.

        All take them in one order, so two batches with the same texts never wait for each other.
        """

    async def add(self, memory: Memory, scope_hash: bytes, by: str | None) -> Memory | None:
        """The stored memory with its key, or None when `scope_hash` or `memory_id` is taken."""

    async def get(self, tenant_id: str, memory_id: str) -> Memory | None: ...

    async def locked(self, tenant_id: str, memory_id: str) -> Memory | None: ...

    async def by_scope_hash(self, tenant_id: str, scope_hash: bytes) -> Memory | None: ...

    async def release_scope_hash(self, memory_key: int) -> None:
        """The memory is no longer valid: its text may be written again."""

    async def by_keys(self, memory_keys: Sequence[int]) -> list[Memory]: ...

    async def by_ids(self, tenant_id: str, memory_ids: Sequence[str]) -> list[Memory]: ...

    async def page(
        self,
        tenant_id: str,
        audiences: frozenset[str],
        *,
        after_key: int | None,
        limit: int,
        lineage: Lineage | None = None,
        kind: str | None = None,
        agent_id: str | None = None,
        reach: Reach | None = None,
        alive_at: datetime | None = None,
    ) -> list[Memory]:
        """Newest first. `alive_at`: without those whose time to live was over by then."""

    async def outlines(
        self,
        tenant_id: str,
        audiences: frozenset[str],
        *,
        after_key: int,
        limit: int,
        alive_at: datetime,
        kinds: frozenset[str] | None = None,
        reach: Reach | None = None,
        with_metadata: bool = False,
    ) -> list[Outline]:
        """As `page`, by key and without texts; without metadata unless it is asked for."""

    async def update(
        self,
        memory: Memory,
        changes: Mapping[str, Any],
        scope_hash: bytes | None,
        by: str | None,
        now: datetime,
        reason: str | None = None,
    ) -> Memory:
        """The next version; the old one is kept."""

    async def successor(self, memory: Memory) -> Memory | None:
        """What stands in the place of a superseded memory now, locked; None: it was purged."""

    async def unsegmented(self, tenant_id: str, limit: int) -> list[Memory]: ...

    async def mark_segmented(self, memory: Memory) -> None: ...

    async def uncompared(self, tenant_id: str, space: str, limit: int) -> list[Memory]:
        """Those that have all their vectors and were not compared with the others of their scope since."""

    async def mark_compared(self, memory: Memory, near_duplicate_of: str | None) -> bool:
        """False: it was changed meanwhile."""

    async def compare_again(self, memory: Memory) -> None:
        """Its text is another, or it is gone: it, and what was said to repeat it, is compared anew."""

    async def originals(self, memory_keys: Sequence[int]) -> list[Memory]:
        """Those of them that were compared and repeat none."""

    async def used(self, uses: Mapping[int, Use]) -> None:
        """Adds to the accesses of each memory_key."""

    async def expired(self, now: datetime, limit: int) -> list[Memory]:
        """Of all tenants: those whose time to live is over, locked; without those that another is at."""

    async def expired_of(self, tenant_id: str, now: datetime) -> list[int]:
        """Of one tenant: the keys of those that are still there."""

    async def locked_keys(self, memory_keys: Sequence[int]) -> list[int]:
        """Those of them that are there; nobody changes them until the unit of work ends."""

    async def unpinned(self, memory_keys: Sequence[int]) -> list[int]:
        """Those of them that are there and not pinned, locked."""

    async def purge(self, *memory_keys: int) -> dict[str, int]:
        """Their rows, versions and segments; counts by kind. What repeated them is compared anew."""

    async def derived_from(self, session_key: int, session_id: str, tenant_id: str) -> list[Memory]:
        """Memories of the session, and those whose source is in it."""

    async def last_of(self, session_keys: Sequence[int], seq: int) -> dict[int, int]:
        """The last memory_key of each session that was written before its log went beyond `seq`; absent: none."""

    async def set_source(self, memory_key: int, source: MemorySource) -> None:
        """The same events are found under another session from now on."""

    async def count(self, tenant_id: str) -> int: ...


class VersionRepository(Protocol):
    async def page(
        self, memory_key: int, visibilities: Collection[MemoryVisibility], *, after_version: int, limit: int
    ) -> list[MemoryVersion]:
        """The versions of a memory that were visible so, oldest first."""

    async def end_before(self, memory: Memory) -> datetime | None:
        """The `valid_to` that it had before something took its place."""

    async def as_at(self, memories: Sequence[Memory], moment: datetime) -> list[Memory]:
        """These memories as they were at `moment`; one that was written later, as it was written."""

    async def changed_since(self, tenant_id: str, moment: datetime, limit: int) -> list[Then]:
        """Memories that may have been something else at `moment` than they are now, the last changed first.

        As they were then, as in `as_at`; of their texts the first 4,000 characters, of those that are the same none.
        """
