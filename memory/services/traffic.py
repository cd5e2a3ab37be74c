"""Who goes first? Work behind the scenes waits while this process answers requests, but never for long.

Without it appends beside an ingest share the interpreter and the cores with the embedding, and take twice as long.
What waits is not lost to a reader: an event is found by its words at once, by its meaning when it is embedded.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 0.15
"""Seconds. Under a load without a gap one batch of an ingest (about 60 ms) still gets through in so many, on however
many cores batches wait."""
_LULL = 0.02
"""Seconds without a request: clients that are answered together are all silent for a moment, then all back."""
_LOOK_EVERY = 0.005


class Traffic:
    """Requests are counted by one thread (the event loop's); any thread may give way."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._requests = 0
        self._last = -_LULL
        self._passed = 0.0
        self._passing = threading.Lock()

    @contextmanager
    def request(self) -> Iterator[None]:
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._last = time.monotonic()

    def give_way(self) -> None:
        """Blocks until requests have been away for a moment, or for the patience. For threads without a loop."""
        came = time.monotonic()
        while self._busy() and not self._passes(came):
            time.sleep(_LOOK_EVERY)

    def _passes(self, came: float) -> bool:
        """Whether the calling thread goes on in spite of the requests: it has waited, and so long no other one did."""
        with self._passing:
            now = time.monotonic()
            if now - max(came, self._passed) < self._patience:
                return False
            self._passed = now
            return True

    def _busy(self) -> bool:
        return self._requests > 0 or time.monotonic() - self._last < _LULL
