"""A container that records its calls, brokers to work with, and workers that end with the test."""

import asyncio
import os
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import kombu
import pytest
import redis

from memory.adapters.jobs.celery_queue import CeleryQueue
from memory.adapters.jobs.settings import JobSettings
from memory.settings import Settings
from workers import embedded
from workers.crew import Crew

REDIS = os.environ.get("STRATAMEM_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
AMQP = os.environ.get("STRATAMEM_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")


_WORK = frozenset("consolidate embed evict finish_purge finish_forget reembed sweep tidy expire plan work run".split())


class FakeServices:
    """Stands for the container and for each of its services. `on[name]` replaces what a call does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...], float]] = []
        self.on: dict[str, Callable[..., Awaitable[None]]] = {}
        self.opened = 0
        self.closed = 0
        self.consolidation = self.forgetting = self.indexes = self.codecs = self.policies = self
        self.reembedding = self.upkeep = self

    @asynccontextmanager
    async def open(self) -> Any:
        self.opened += 1
        yield self
        await asyncio.sleep(0)
        self.closed += 1

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        if name not in _WORK:
            raise AttributeError(name)

        async def call(*ids: str) -> None:
            self.calls.append((name, ids, time.perf_counter()))
            if name in self.on:
                await self.on[name](*ids)

        return call

    def ids(self, name: str) -> list[str]:
        return [ids[0] for called, ids, _ in list(self.calls) if called == name]

    def count(self, name: str) -> int:
        return sum(called == name for called, _, _ in list(self.calls))


def eventually(condition: Callable[[], Any], within: float = 30.0) -> None:
    """The limit is for what never comes: nobody waits longer than he has to."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within} s"
        time.sleep(0.005)


def settings_for(broker: str, data_dir: Path, **jobs: Any) -> Settings:
    jobs = {"queue": f"test-{uuid.uuid4().hex[:12]}", "retry_after": 0.05, **jobs}
    return Settings(data_dir=data_dir, broker_url=broker, jobs=JobSettings(**jobs), _env_file=None)


def queue_of(settings: Settings) -> CeleryQueue:
    return CeleryQueue(settings.broker_url, settings.jobs, settings.data_dir)


@pytest.fixture
def until() -> Callable[..., None]:
    return eventually


@pytest.fixture
def new_services() -> type[FakeServices]:
    return FakeServices


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def new_settings(tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    queues: list[str] = []

    def make(broker: str = "memory://", data_dir: Path | None = None, **jobs: Any) -> Settings:
        settings = settings_for(broker, data_dir or tmp_path, **jobs)
        if not settings.embedded:
            queues.append(settings.jobs.queue)
        return settings

    yield make
    if queues:
        forget(queues)


def forget(queues: list[str]) -> None:
    """Leaves the brokers as they were."""
    with suppress(redis.RedisError), redis.Redis.from_url(REDIS) as client:
        for queue in queues:
            for key in client.scan_iter(f"{queue}:*"):
                client.delete(key)
    with suppress(OSError), kombu.Connection(AMQP, connect_timeout=2) as connection:
        for queue in queues:
            kombu.Queue(queue, channel=connection.default_channel).delete()
            kombu.Exchange(queue, channel=connection.default_channel).delete()


@pytest.fixture
def new_queue() -> Iterator[Callable[[Settings], CeleryQueue]]:
    queues: list[CeleryQueue] = []

    def make(settings: Settings) -> CeleryQueue:
        queues.append(queue_of(settings))
        return queues[-1]

    yield make
    for queue in queues:
        queue.close()


@pytest.fixture
def started() -> Iterator[Callable[..., Crew]]:
    crews: list[Crew] = []

    def start(settings: Settings, services: FakeServices) -> Crew:
        crews.append(embedded.start(settings, open_services=services.open))
        return crews[-1]

    yield start
    for crew in crews:
        crew.stop(3)


@pytest.fixture(params=["redis", "amqp"])
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of a broker that answers."""
    return answering({"redis": REDIS, "amqp": AMQP}[request.param])


@pytest.fixture(params=["memory", "redis", "amqp"])
def any_broker(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else answering({"redis": REDIS, "amqp": AMQP}[request.param])


def answering(url: str) -> str:
    try:
        with kombu.Connection(url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=0)
    except Exception as error:
        missing(f"no broker at {kombu.Connection(url).as_uri()}: {error}")
    return url


def missing(reason: str) -> None:
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class Wire:
    """A TCP proxy in front of a broker: cut, it refuses and drops connections like a broker that is away."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        login = f"{parts.username}:{parts.password}@" if parts.username else ""
        self.url = urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{self._port}"))

    def join(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for end in list(self._open):
            with suppress(OSError):  # just closed by its own thread
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        self._open.add(source)
        with source, suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self._open.discard(source)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire(broker: str) -> Iterator[Wire]:
    """Not joined yet."""
    wire = Wire(broker)
    yield wire
    wire.cut()
