"""How does one thread take jobs from the broker, one after the other?

Celery's worker controller with the solo pool, and a loop of our own: it looks every so often whether it has to stop
and runs delayed jobs (retries) in the same thread. Celery's loops stop through process-wide flags, take up to two
seconds to notice, and hand delayed jobs to a second thread; two consumers in one process would stop each other.
Everything that touches a channel happens in its thread: AMQP channels are not thread-safe.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

import kombu
from celery import Celery
from celery.bootsteps import RUN  # type: ignore[attr-defined] # missing in the stubs
from celery.exceptions import WorkerShutdown
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer
from kombu.asynchronous.timer import Timer

_LOOK_EVERY = 0.2
"""Seconds a consumer without work needs to notice that it has to stop; a delayed job is late by as much."""
_RESTART_AFTER = 2.0
_LONGEST_PAUSE = 5
"""Seconds between attempts to reach a broker that is away."""

logger = logging.getLogger(__name__)


class JobConsumer(Consumer):
    """Reads jobs off one connection. `controller` is the _Controller below."""

    controller: Any
    timer: Any
    connection_errors: tuple[type[BaseException], ...]
    channel_errors: tuple[type[BaseException], ...]
    task_consumer: Any
    qos: Any

    def loop(self, *_: object) -> None:
        """Returns never: ends by WorkerShutdown, or by a connection error, after which Celery connects again."""
        self.task_consumer.on_message = self._guarded(self.create_task_handler())
        self.task_consumer.consume()
        self.on_ready()
        entries = iter(self.timer)
        while self.blueprint.state == RUN and self.connection is not None:
            self._end_if_asked()
            if self.qos.prev != self.qos.value:
                self.qos.update()
            self.perform_pending_operations()
            _, due = next(entries)
            if due is not None:
                self.timer.apply_entry(due)
                continue
            try:
                self.connection.drain_events(timeout=_LOOK_EVERY)
            except TimeoutError:
                continue

    def ensure_connected(self, conn: kombu.Connection) -> kombu.Connection:
        """Tries for ever, with bounded pauses, until it has to stop."""
        conn.ensure_connection(
            self._on_unreachable,
            interval_start=1,
            interval_step=1,
            interval_max=_LONGEST_PAUSE,
            callback=self._end_if_asked,
        )
        self.first_connection_attempt = False
        return conn

    def on_close(self) -> None:
        """Forgets the delayed jobs of this connection, which the broker hands out again.

        Celery's own forgets those of every consumer of the process.
        """
        for scheduled in self.timer.queue:
            for request in scheduled.entry.args:
                state.requests.pop(getattr(request, "id", ""), None)
        self.timer.clear()

    def _guarded(self, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        def guarded(message: Any) -> None:
            try:
                handle(message)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception:
                # A message that Celery stumbles over would come back after each restart of the consumer, for ever.
                logger.exception("a message can't be handled and is dropped")
                message.reject_log_error(logger, self.connection_errors)

        return guarded

    def _end_if_asked(self) -> None:
        if self.controller.stopping.is_set():
            raise WorkerShutdown(0)

    def _on_unreachable(self, error: Exception, pause: float) -> None:
        logger.warning("the broker can't be reached, next try in %.1f s: %s", pause, error)


class _Controller(WorkController):
    consumer: JobConsumer

    def __init__(self, app: Celery, name: str, stopping: threading.Event, on_ready: Callable[[], None]) -> None:
        self.stopping = stopping
        super().__init__(
            app=app,
            hostname=name,
            pool="solo",
            concurrency=1,
            consumer_cls=JobConsumer,
            timer_cls=Timer,
            use_eventloop=False,
            ready_callback=lambda _: on_ready(),
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
        )


class ConsumerThread(threading.Thread):
    """Runs a consumer until `stopping` is set, and starts it again should it end for any other reason."""

    def __init__(self, app: Celery, name: str, stopping: threading.Event, prepare_thread: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.ready = threading.Event()
        self._app = app
        self._stopping = stopping
        self._prepare_thread = prepare_thread
        self._controller: _Controller | None = None

    @property
    def connected(self) -> bool:
        controller = self._controller
        return self.is_alive() and controller is not None and controller.consumer.connection is not None

    def run(self) -> None:
        self._prepare_thread()
        self._app.set_current()  # per thread: a task looks its application up there
        while not self._stopping.is_set():
            self._controller = _Controller(self._app, self.name, self._stopping, self.ready.set)
            self._controller.start()
            if not self._stopping.is_set():
                logger.error("consumer %s ended, starting it again", self.name)
                self._stopping.wait(_RESTART_AFTER)
