"""How is a codec trained and measured while its worker goes on? In a thread of its own.

A daemon thread: a process that stops does not wait for FAISS, which can't be interrupted.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from memory.domain.codecs import NewCodebook
from memory.ports.codecs import Codec
from memory.ports.models import Vectors
from memory.services.retention import measured


class Training:
    """One codec's, once. `ended`: set from outside, it stops soon. `until`: by the monotonic clock, it stops then."""

    def __init__(self, codec: Codec, parts: Sequence[Vectors], dimensions: int, until: float) -> None:
        self._codec = codec
        self._parts = parts
        self._dimensions = dimensions
        self._until = until
        self._outcome: Future[tuple[NewCodebook, bytes]] = Future()
        self.ended = False

    def begin(self) -> asyncio.Future[tuple[NewCodebook, bytes]]:
        self._outcome.set_running_or_notify_cancel()
        threading.Thread(target=self._run, name="codec", daemon=True).start()
        return asyncio.wrap_future(self._outcome)

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._learned())
        except BaseException as error:  # raised again where it is waited for
            self._outcome.set_exception(error)

    def _learned(self) -> tuple[NewCodebook, bytes]:
        """Measured on a fifth of the stretches that it has not seen. What was measured is what may be adopted."""
        seen = [part for place, part in enumerate(self._parts) if place % 5]
        unseen = [part for place, part in enumerate(self._parts) if not place % 5]
        body = self._codec.train(seen or unseen, self._goes_on)
        retention = measured(self._codec.open(body, self._dimensions), unseen)
        return NewCodebook(self._codec.name, None, retention, sum(map(len, self._parts))), body

    def _goes_on(self, done: float) -> bool:
        return not self.ended and time.monotonic() < self._until
