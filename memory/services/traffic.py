"""Who goes first? Work behind the scenes waits while this process answers requests, but never for long.

Without it appends beside an ingest share the interpreter and the cores with the embedding, and take twice as long.
What waits is not lost to a reader: an event is found by its words at once, by its meaning when it is embedded.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 0.1
"""Seconds. Under a load without a gap an ingest still gets a batch (about 60 ms) in so many."""
_LULL = 0.02
"""Seconds without a request: clients that are answered together are all silent for a moment, then all back."""
_LOOK_EVERY = 0.005


class Traffic:
    """Requests are counted by one thread (the event loop's); any thread may give way."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._requests = 0
        self._last = -_LULL

    @contextmanager
    def request(self) -> Iterator[None]:
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._last = time.monotonic()

    def give_way(self) -> None:
        """Blocks until requests have been away for a moment, at most for the patience. For threads without a loop."""
        until = time.monotonic() + self._patience
        while self._busy() and time.monotonic() < until:
            time.sleep(_LOOK_EVERY)

    def _busy(self) -> bool:
        return self._requests > 0 or time.monotonic() - self._last < _LULL
