"""How does a Celery task, which blocks a thread, run a coroutine of a service?

One `Bridge` per process: a thread with one event loop and one opened container. Tasks carry ids only; whatever
happens to a task, its row in the outbox stays unfinished until the service says otherwise, and the sweep sends it
again. That is why an unexpected error is logged here and nothing else.
"""

import asyncio
import concurrent.futures
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from celery import Celery
from celery.app.task import Task
from celery.exceptions import Reject

from memory.adapters.jobs.settings import JobSettings
from memory.domain.errors import Retryable

_LONGEST_WAIT = 60.0
"""Seconds between two tries; far below Redis' visibility time, or the waiting job would be handed out twice."""

logger = logging.getLogger(__name__)


class Consolidation(Protocol):
    async def consolidate(self, operation_id: str) -> object: ...

    async def embed(self, operation_id: str) -> object: ...

    async def evict(self, operation_id: str) -> object: ...


class Forgetting(Protocol):
    async def finish_purge(self, operation_id: str) -> object: ...


class Indexes(Protocol):
    async def run(self, operation_id: str) -> object: ...


class Codecs(Protocol):
    async def work(self, operation_id: str) -> object: ...

    async def plan(self) -> object: ...


class Policies(Protocol):
    async def finish_forget(self, operation_id: str) -> object: ...


class Reembedding(Protocol):
    async def reembed(self, operation_id: str) -> object: ...


class Upkeep(Protocol):
    async def sweep(self) -> object: ...

    async def tidy(self) -> object: ...

    async def expire(self) -> object: ...


class Services(Protocol):
    """What the workers need of the container."""

    @property
    def consolidation(self) -> Consolidation: ...
    @property
    def forgetting(self) -> Forgetting: ...
    @property
    def indexes(self) -> Indexes: ...
    @property
    def codecs(self) -> Codecs: ...
    @property
    def policies(self) -> Policies: ...
    @property
    def reembedding(self) -> Reembedding: ...
    @property
    def upkeep(self) -> Upkeep: ...


Job = Callable[..., Awaitable[object]]
"""(services, *ids) → awaitable"""
OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


class Bridge:
    """A thread, its event loop, and the container opened on it."""

    def __init__(self, open_services: OpenServices, prepare_thread: Callable[[], None] = lambda: None) -> None:
        self._open_services = open_services
        self._prepare_thread = prepare_thread
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._running: set[concurrent.futures.Future[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name="job-loop", daemon=True)

    def start(self) -> None:
        """Returns when the container is open; raises what opening it raised."""
        self._thread.start()
        self._opened.result()

    def run(self, job: Job, *ids: str) -> None:
        """Blocks until the job is done; raises what it raised, or `concurrent.futures.CancelledError` at the stop."""
        with self._lock:
            if self._closed:
                raise concurrent.futures.CancelledError
            future = asyncio.run_coroutine_threadsafe(self._do(job, ids), self._loop)
            self._running.add(future)
        try:
            future.result()
        finally:
            self._running.discard(future)

    def responsive(self, timeout: float) -> bool:
        """The event loop turns. Waits for `timeout` seconds at most."""
        turned = threading.Event()
        with self._lock:
            if self._closed:
                return False
            self._loop.call_soon_threadsafe(turned.set)
        return turned.wait(timeout)

    def cancel(self) -> None:
        """Takes no more jobs and cancels those that run."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def stop(self, timeout: float) -> bool:
        """Cancels, closes the container and ends the thread. False: it still runs after `timeout` seconds."""
        self.cancel()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        self._prepare_thread()
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            # Whatever it was, `start` waits for it in another thread; after the start only closing can fail.
            if self._opened.done():
                logger.exception("closing the workers' container failed")
            else:
                self._opened.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        async with self._open_services() as self._services:
            self._opened.set_result(None)
            await self._stopping.wait()
            await self._let_go()

    async def _do(self, job: Job, ids: tuple[str, ...]) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await job(self._services, *ids)
        finally:
            self._tasks.discard(task)

    async def _let_go(self) -> None:
        """Cancelled jobs end before the container that they use is closed. A second cancel would cut them short."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


def register(app: Celery, bridge: Bridge, jobs: JobSettings, name: str, job: Job) -> None:
    """Makes `job` the Celery task `name`. Nobody retries an unexpected error here: the sweep does."""

    def run(task: Task[..., None], *ids: str) -> None:
        try:
            bridge.run(job, *ids)
        except Retryable as error:
            _retry(task, jobs, ids, error)
        except concurrent.futures.CancelledError:
            raise Reject("the worker stops", requeue=True) from None
        except Exception:
            # The worker goes on whatever one job does; the operation stays unfinished and comes again.
            logger.exception("job %s %s failed; the sweep sends it again", name, ids)

    # shared: Celery would register the task with every other application of this process.
    app.task(name=name, bind=True, shared=False, max_retries=None)(run)


def _retry(task: Task[..., Any], jobs: JobSettings, ids: tuple[str, ...], error: Retryable) -> None:
    """Sends the job again for later, with exponential waits and jitter, `jobs.retries` times."""
    tries: int = task.request.retries
    if tries >= jobs.retries:
        logger.error("job %s %s: still %s after %d tries; left to the sweep", task.name, ids, error.code, tries + 1)
        return
    wait = min(_LONGEST_WAIT, jobs.retry_after * 2**tries) * random.uniform(0.5, 1)  # noqa: S311 # spreads load
    logger.warning("job %s %s: %s, tried again in %.1f s", task.name, ids, error.detail, wait)
    raise task.retry(countdown=wait)
