"""What makes up the workers of one process, and how do they start and end together?"""

import socket
import threading
import time
from collections.abc import Callable

import kombu

from memory.adapters.jobs.celery_app import embedded
from memory.adapters.jobs.celery_queue import CeleryQueue
from memory.settings import Settings
from workers.app import make_app
from workers.consumer import ConsumerThread
from workers.schedule import Beat
from workers.task import Bridge, OpenServices

_GRACE = 0.4
"""Share of the time to stop in which running jobs may end by themselves."""
_READY_WITHIN = 1.0


class Crew:
    """A loop thread with the container, `settings.jobs.concurrency` consumer threads, a beat. Owns all of them."""

    def __init__(
        self, settings: Settings, open_services: OpenServices, prepare_thread: Callable[[], None] = lambda: None
    ) -> None:
        self._stopping = threading.Event()
        self._bridge = Bridge(open_services, prepare_thread)
        self._app = make_app(settings, self._bridge)
        self._settings = settings
        self._prepare_thread = prepare_thread
        self._threads: list[threading.Thread] = []
        self._consumers: list[ConsumerThread] = []
        self._queue: CeleryQueue | None = None

    def start(self) -> None:
        """Opens the container (raises what that raises), then takes jobs. A broker that is away is waited for later."""
        self._bridge.start()
        host = socket.gethostname()
        self._consumers = [
            ConsumerThread(self._app, f"jobs-{number}@{host}", self._stopping, self._prepare_thread)
            for number in range(self._settings.jobs.concurrency)
        ]
        self._queue = CeleryQueue(self._settings.broker_url, self._settings.jobs, self._settings.data_dir)
        self._threads = [*self._consumers, Beat(self._app, self._queue, self._stopping)]
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + _READY_WITHIN
        for consumer in self._consumers:
            consumer.ready.wait(_left(deadline))

    @property
    def healthy(self) -> bool:
        """Every consumer is connected (or at work), the beat runs and the event loop turns."""
        alive = all(thread.is_alive() for thread in self._threads)
        return alive and all(consumer.connected for consumer in self._consumers) and self._bridge.responsive(2)

    def stop(self, timeout: float = 5.0) -> bool:
        """Ends everything within `timeout` seconds; jobs that run are first waited for, then cancelled and sent back.

        Blocks. False: a thread sits in native code and can't be ended; the lease and the sweep take up its job.
        """
        deadline = time.monotonic() + timeout
        self._stopping.set()
        self._join(time.monotonic() + timeout * _GRACE)
        self._bridge.cancel()
        self._join(deadline)
        if self._queue is not None:
            self._queue.close(max(0.1, min(1.0, _left(deadline))))
        ended = self._bridge.stop(max(0.1, _left(deadline)))
        if embedded(self._settings.broker_url):
            self._forget_queue()
        self._app.close()
        return ended and not any(thread.is_alive() for thread in self._threads)

    def _join(self, deadline: float) -> None:
        for thread in self._threads:
            thread.join(_left(deadline))

    def _forget_queue(self) -> None:
        """kombu keeps in-process queues for the life of the process."""
        with self._app.connection_for_write() as connection:
            kombu.Queue(self._app.conf.task_default_queue, channel=connection.default_channel).delete()


def _left(deadline: float) -> float:
    """Seconds, at least 0."""
    return max(0.0, deadline - time.monotonic())
