"""What is done again and again, and how often?

Every worker process runs this table; a sweep or an upkeep that runs twice does nothing the second time.
"""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from celery.beat import ScheduleEntry, Scheduler

from memory.adapters.jobs.celery_queue import CeleryQueue
from memory.adapters.jobs.settings import JobSettings
from memory.services.tasks import SWEEP

UPKEEP = "upkeep"
EXPIRE = "expire"
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_SHORTEST_EXPIRY = 60.0
"""Seconds. The clocks of two workers may differ by less than this; a sweep must not look expired on the other one."""


def table(jobs: JobSettings) -> dict[str, dict[str, Any]]:
    """Celery's `beat_schedule`. All are due at the start: what a crash left behind is not made to wait."""
    every = {SWEEP: jobs.sweep_every, UPKEEP: jobs.upkeep_every, EXPIRE: jobs.expire_every}
    return {task: _every(seconds, task) for task, seconds in every.items()}


def _every(seconds: float, task: str) -> dict[str, Any]:
    return {
        "task": task,
        "schedule": timedelta(seconds=seconds),
        "last_run_at": _LONG_AGO,
        # While all workers are busy for an hour, one sweep may wait for them, not two hundred.
        "options": {"expires": max(seconds, _SHORTEST_EXPIRY)},
    }


class _InMemoryScheduler(Scheduler):
    """Celery's own, in memory (the persistent one pickles); hands over to the queue, which never blocks."""

    producer = None  # type: ignore[assignment] # the base would connect, and try again for minutes

    def __init__(self, app: Celery, queue: CeleryQueue) -> None:
        self._queue = queue
        super().__init__(app)

    def apply_async(self, entry: ScheduleEntry, producer: object = None, advance: bool = True, **_: Any) -> None:
        if entry.task is not None:
            self._queue.send(entry.task, *(entry.args or ()), expires=(entry.options or {}).get("expires"))


class Beat(threading.Thread):
    """Sends what is due, until `stopping` is set."""

    def __init__(self, app: Celery, queue: CeleryQueue, stopping: threading.Event) -> None:
        super().__init__(name="job-beat", daemon=True)
        self._scheduler = _InMemoryScheduler(app, queue)
        self._stopping = stopping

    def run(self) -> None:
        while not self._stopping.wait(max(self._scheduler.tick(), 0)):
            pass
