"""Whose answer gets the next place?

Whoever has the fewest running, and of one tenant's jobs the first that came. A tenant may hold neither all places nor
all of the queue, so another one always gets in. Work ahead of time (`warm`) takes no place: it runs when nobody waits
or is answered, and of a session only the newest.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from model_runtime.generators.job import Failed, Job

_OVERTAKEN = "newer work took its place"


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """Answers at a time, and jobs that wait: of all, and of one tenant."""

    places: int = 64
    of_tenant: int = 48
    waiting: int = 256
    waiting_of_tenant: int = 128
    warm: int = 32
    """Sessions whose work ahead waits; of more, those that wait longest lose it."""


class QueueFull(Exception):
    """`of_tenant`: only for this tenant."""

    def __init__(self, *, of_tenant: bool) -> None:
        super().__init__("too many answers of this tenant wait" if of_tenant else "too many answers wait")
        self.of_tenant = of_tenant


class Places:
    """Any number of threads may call."""

    def __init__(self, options: PlaceOptions) -> None:
        self._options = options
        self._waiting: list[Job] = []
        self._warm: OrderedDict[tuple[str, str | None], Job] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self, job: Job) -> None:
        """Raises QueueFull."""
        with self._lock:
            overtaken = self._warm.pop(job.session, None)
            if job.warm:
                self._warm[job.session] = job
                late = self._warm.popitem(last=False)[1] if len(self._warm) > self._options.warm else None
            else:
                late = None
                self._enter(job)
        for other in filter(None, (overtaken, late)):
            other.emit(Failed(_OVERTAKEN))

    def next(self, running: Sequence[Job], most: int | None = None) -> Job | None:
        """Takes it out; who was cancelled needs no place. `most`: fewer places than usual, for now."""
        with self._lock:
            gone = next((job for job in self._waiting if job.cancelled.is_set()), None)
            if gone is not None:
                self._waiting.remove(gone)
                return gone
            held = Counter(job.tenant for job in running if not job.warm)
            places = self._options.places if most is None else min(most, self._options.places)
            if self._warm and not self._waiting and not running:
                return self._warm.popitem(last=False)[1]
            may = [job for job in self._waiting if held[job.tenant] < self._options.of_tenant]
            if not may or held.total() >= places:
                return None
            first = min(may, key=lambda job: held[job.tenant])  # of equals the first
            self._waiting.remove(first)
            return first

    def overtake(self, session: tuple[str, str | None]) -> None:
        """Work ahead of this session that waits comes to nothing."""
        with self._lock:
            waiting = self._warm.pop(session, None)
        if waiting is not None:
            waiting.emit(Failed(_OVERTAKEN))

    def drain(self) -> list[Job]:
        """Everybody who waits; nobody does any more."""
        with self._lock:
            left = [*self._waiting, *self._warm.values()]
            self._waiting, self._warm = [], OrderedDict()
        return left

    def _enter(self, job: Job) -> None:
        waiting = [other for other in self._waiting if not other.cancelled.is_set()]
        if sum(other.tenant == job.tenant for other in waiting) >= self._options.waiting_of_tenant:
            raise QueueFull(of_tenant=True)
        if len(waiting) >= self._options.waiting:
            raise QueueFull(of_tenant=False)
        self._waiting.append(job)
