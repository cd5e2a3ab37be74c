"""What was recalled, how often? Counted in memory and written in one go: a read never costs a write."""

from collections import Counter
from collections.abc import Sequence

from memory.domain.ids import ItemId, is_memory, item_key
from memory.domain.recall import TierName
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

# Beyond so many distinct items the oldest notes are dropped: they only steer what leaves a cache.
_MOST = 10_000


class Usage:
    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._noted: Counter[ItemId] = Counter()
        self.by_tier: Counter[str] = Counter()
        """Results since the start, by the fastest tier that held them."""

    def note(self, results: Sequence[tuple[ItemId, TierName]]) -> None:
        for item, tier in results:
            self._noted[item] += 1
            self.by_tier[tier] += 1
        while len(self._noted) > _MOST:
            self._noted.pop(next(iter(self._noted)))

    async def flush(self) -> None:
        """Writes what was recalled since the last flush."""
        if not self._noted:
            return
        noted, self._noted = self._noted, Counter()
        now = self._clock.now()
        async with self._storage.write() as tx:
            await tx.segments.used({item: times for item, times in noted.items() if not is_memory(item)}, now)
            await tx.memories.used({item_key(item): times for item, times in noted.items() if is_memory(item)}, now)
