"""How do many readers and one writer share an index that is no good while it is being written?"""

import asyncio
import threading
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


async def in_background(work: Callable[[], None]) -> None:
    """Runs `work`, which may take minutes, in a thread of its own that ends with the process.

    A cancelled caller leaves at once and the work goes on for nothing: only for what changes nothing that others see.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:
            error = raised  # whatever it was, the caller waits for it in another thread
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name="index-work", daemon=True).start()
    await done
