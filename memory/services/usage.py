"""What was recalled, how often? Counted in memory and written in one go: a read never costs a write."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from memory.domain.ids import ItemId, is_memory, item_key
from memory.domain.memories import Memory
from memory.domain.recall import TierName, Use
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

# Beyond so many distinct items the oldest notes are dropped: they only steer what leaves a cache or is forgotten.
_MOST = 10_000


class Usage:
    """One event loop only."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._noted: dict[ItemId, Use] = {}
        self._writing: Mapping[ItemId, Use] = {}
        self._turn = asyncio.Lock()
        self.by_tier: Counter[str] = Counter()
        """Results since the start, by the fastest tier that held them."""

    def note(self, results: Sequence[tuple[ItemId, TierName]]) -> None:
        now = self._clock.now()
        for item, tier in results:
            self._add(item, Use(1, now))
            self.by_tier[tier] += 1

    def counted(self, memory: Memory) -> Memory:
        """With the uses of this process that are not written yet."""
        for noted in (self._writing, self._noted):
            use = noted.get(memory.item)
            if use is not None:
                last = max(use.last, memory.last_accessed_at or use.last)
                memory = replace(memory, access_count=memory.access_count + use.times, last_accessed_at=last)
        return memory

    async def flush(self) -> None:
        """Writes what was recalled since the last flush; what can't be written is kept for the next one."""
        async with self._turn:
            if not self._noted:
                return
            self._writing, self._noted = self._noted, {}
            try:
                await self._write(self._writing)
            except BaseException:
                for item, use in self._writing.items():
                    self._add(item, use)
                raise
            finally:
                self._writing = {}

    async def _write(self, uses: Mapping[ItemId, Use]) -> None:
        events = {item: use.times for item, use in uses.items() if not is_memory(item)}
        async with self._storage.write() as tx:
            await tx.segments.used(events, max(use.last for use in uses.values()))
            await tx.memories.used({item_key(item): use for item, use in uses.items() if is_memory(item)})

    def _add(self, item: ItemId, use: Use) -> None:
        known = self._noted.get(item)
        self._noted[item] = use if known is None else Use(known.times + use.times, max(known.last, use.last))
        while len(self._noted) > _MOST:
            self._noted.pop(next(iter(self._noted)))
