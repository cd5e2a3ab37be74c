"""How does a job get from a request to the broker without the request waiting for the broker?

`send` puts it in a bounded list and returns; one thread publishes. While the broker is away the list waits, what no
longer fits is counted and left to the sweep. The same job is never twice in the list: it only says "look there".
"""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import kombu
from celery import Celery
from kombu.exceptions import OperationalError

from memory.adapters.jobs.celery_app import ANSWER_TIMEOUT, CONNECT_TIMEOUT, job_app
from memory.adapters.jobs.settings import JobSettings
from memory.domain.errors import BrokerUnavailable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_PROBE_TIMEOUT = CONNECT_TIMEOUT + ANSWER_TIMEOUT

logger = logging.getLogger(__name__)


class _Job(NamedTuple):
    task: str
    ids: tuple[str, ...]
    expires: float | None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """`dropped`: were left to the sweep. `failure`: why the last attempt to publish failed; None: it did not."""

    waiting: int
    sent: int
    dropped: int
    failure: str | None


class CeleryQueue:
    """A JobQueue over any broker that Celery speaks to. Owns a thread and a connection; `close` ends both."""

    def __init__(self, broker_url: str, jobs: JobSettings, data_dir: Path) -> None:
        self._app = job_app(broker_url, jobs, data_dir)
        self._limit = jobs.backlog
        self._waiting: dict[_Job, None] = {}
        self._changed = threading.Condition()
        self._sent = 0
        self._dropped = 0
        self._failure: str | None = None
        self._flush_until: float | None = None
        self._thread = threading.Thread(target=self._publish_all, name="job-publisher", daemon=True)
        self._thread.start()

    def send(self, task: str, *ids: str, expires: float | None = None) -> None:
        """Hands over in microseconds, from any thread; never raises. `expires`: seconds until nobody needs it."""
        job = _Job(task, ids, expires)
        with self._changed:
            if job in self._waiting:
                return
            if len(self._waiting) >= self._limit or self._flush_until is not None:
                self._dropped += 1
                return
            self._waiting[job] = None
            self._changed.notify()

    async def check(self) -> None:
        """Connects to the broker. Raises BrokerUnavailable, also when it answers but takes no jobs."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await asyncio.to_thread(self._probe)
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {_PROBE_TIMEOUT:g} s") from error
        if failure := self._failure:
            raise self._unavailable(failure)

    def stats(self) -> QueueStats:
        with self._changed:
            return QueueStats(len(self._waiting), self._sent, self._dropped, self._failure)

    def close(self, timeout: float = 1.0) -> None:
        """Publishes what waits, for `timeout` seconds at most. Blocks that long."""
        with self._changed:
            if self._flush_until is None:
                self._flush_until = time.monotonic() + timeout
            self._changed.notify()
        self._thread.join(max(0.0, self._flush_until - time.monotonic()))

    def _publish_all(self) -> None:
        publisher = _Publisher(self._app)
        while (job := self._next()) is not None:
            self._deliver(publisher, job)
        publisher.disconnect()

    def _next(self) -> _Job | None:
        """The oldest job, taken out before it is published: the same job may be sent again from now on."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._flush_until is not None)
            if not self._waiting or (self._flush_until is not None and time.monotonic() > self._flush_until):
                return None
            job = next(iter(self._waiting))
            del self._waiting[job]
            return job

    def _deliver(self, publisher: "_Publisher", job: _Job) -> None:
        """Tries until it works or the queue is closed."""
        pause = _FIRST_PAUSE
        while True:
            try:
                publisher.publish(job)
            except publisher.passing as error:
                publisher.disconnect()
                if self._pause(pause, error):
                    self._drop()
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:
                # This thread is the only one that publishes: one job that can't be encoded must not end it.
                publisher.disconnect()
                logger.exception("job %s %s can't be published; left to the sweep", job.task, job.ids)
                self._drop()
                return
            else:
                self._published()
                return

    def _pause(self, seconds: float, error: BaseException) -> bool:
        """Waits. True: the queue was closed."""
        if self._failure is None:
            logger.warning("the broker takes no jobs, they wait: %s", error)
        self._failure = f"{type(error).__name__}: {error}"
        with self._changed:
            return self._changed.wait_for(lambda: self._flush_until is not None, seconds)

    def _published(self) -> None:
        if self._failure is not None:
            logger.info("the broker takes jobs again")
        with self._changed:
            self._failure = None
            self._sent += 1

    def _drop(self) -> None:
        with self._changed:
            self._dropped += 1

    def _probe(self) -> None:
        with self._app.connection_for_write() as connection:
            try:
                connection.ensure_connection(max_retries=0)
            except (OperationalError, OSError) as error:
                raise self._unavailable(str(error)) from error

    def _unavailable(self, why: str) -> BrokerUnavailable:
        broker = self._app.connection_for_write().as_uri()  # without the password
        return BrokerUnavailable(f"the broker at {broker} can't be reached: {why}", broker=broker)


class _Publisher:
    """One connection, made when it is needed. Belongs to one thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._producer: kombu.Producer | None = None
        self._connection = app.connection_for_write()  # connects when it is used
        self.passing: tuple[type[BaseException], ...] = (
            OperationalError,
            OSError,
            *self._connection.connection_errors,
            *self._connection.channel_errors,
        )

    def publish(self, job: _Job) -> None:
        """Raises one of `passing` when the broker does not take it."""
        if self._producer is None:
            self._connection = self._app.connection_for_write()
            self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        self._app.send_task(
            job.task,
            args=job.ids,
            expires=job.expires,
            producer=self._producer,
            ignore_result=True,
            retry=False,
            confirm_timeout=ANSWER_TIMEOUT,
        )

    def disconnect(self) -> None:
        self._producer = None
        try:
            self._connection.release()
        except Exception as error:
            # The connection is given up, often because it is broken: how its closing fails changes nothing.
            logger.debug("closing the broker connection: %s", error)
