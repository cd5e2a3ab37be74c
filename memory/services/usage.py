"""What was recalled, how often? Counted in memory and written in one go: a read never costs a write."""

from collections.abc import Sequence

from memory.domain.ids import ItemId, is_memory, item_key
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

# Beyond so many distinct items the oldest notes are dropped: they only steer what leaves a cache.
_MOST = 10_000


class Usage:
    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._noted: dict[ItemId, None] = {}

    def note(self, items: Sequence[ItemId]) -> None:
        for item in items:
            self._noted[item] = None
        while len(self._noted) > _MOST:
            self._noted.pop(next(iter(self._noted)))

    async def flush(self) -> None:
        """Counts one use of every item that was recalled since the last flush."""
        if not self._noted:
            return
        items, self._noted = list(self._noted), {}
        now = self._clock.now()
        async with self._storage.write() as tx:
            await tx.segments.used([item for item in items if not is_memory(item)], now)
            await tx.memories.used([item_key(item) for item in items if is_memory(item)], now)
