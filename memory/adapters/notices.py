"""How does one part of a process tell another that a log has changed? All on one event loop."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class LocalNotices:
    def __init__(self) -> None:
        self._listeners: defaultdict[int, set[asyncio.Event]] = defaultdict(set)

    def changed(self, session_keys: Collection[int]) -> None:
        for key in session_keys:
            for listener in self._listeners.get(key, ()):
                listener.set()

    def changed_perhaps(self) -> None:
        """Nobody knows which: all look."""
        self.changed(list(self._listeners))

    @contextmanager
    def listening(self, session_key: int) -> Iterator[asyncio.Event]:
        told = asyncio.Event()
        self._listeners[session_key].add(told)
        try:
            yield told
        finally:
            self._listeners[session_key].discard(told)
            if not self._listeners[session_key]:
                del self._listeners[session_key]

    async def close(self) -> None:
        pass
