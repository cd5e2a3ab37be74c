"""How do many readers and one writer share an index that is no good while it is being written?"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


class ReadWriteLock:
    """Readers beside readers, a writer alone; a waiting writer goes before readers that come later."""

    def __init__(self) -> None:
        self._readers = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._door = asyncio.Lock()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        async with self._door:
            self._readers += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._idle.set()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        async with self._door:
            await self._idle.wait()
            yield


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread; a cancelled caller leaves only when the thread is done, so its lock still holds."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
