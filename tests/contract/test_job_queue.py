"""What every JobQueue keeps to, whatever carries the jobs."""

import asyncio
import json
import os
import socket
import statistics
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

import kombu
import pytest
import redis

from memory.adapters.jobs.celery_app import job_app, queue_name
from memory.adapters.jobs.celery_queue import CeleryQueue
from memory.adapters.jobs.recording import NullQueue, RecordingQueue
from memory.adapters.jobs.settings import JobSettings
from memory.domain.errors import BrokerUnavailable

REDIS = os.environ.get("STRATAMEM_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
AMQP = os.environ.get("STRATAMEM_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
BROKERS = {"memory": "memory://", "redis": REDIS, "amqp": AMQP}
NOBODY = {"redis": "redis://:secret@127.0.0.1:1/0", "amqp": "amqp://me:secret@127.0.0.1:1//"}


class OverABroker:
    """A CeleryQueue, and what a worker would find."""

    def __init__(self, url, data_dir, **jobs):
        self.url, self.data_dir = url, data_dir
        self.jobs = JobSettings(queue=f"test-{uuid.uuid4().hex[:12]}", **jobs)
        self.queue = CeleryQueue(url, self.jobs, data_dir)

    def arrived(self, count):
        """The first `count` jobs, oldest first; fewer after ten seconds without one."""
        app = job_app(self.url, self.jobs, self.data_dir)
        jobs = []

        def take(message):
            assert message.content_type == "application/json"
            args, kwargs, _ = json.loads(message.body)
            assert kwargs == {}
            jobs.append((message.headers["task"], tuple(args)))
            message.ack()

        with app.connection_for_read() as connection, app.amqp.TaskConsumer(connection, on_message=take):
            with suppress(TimeoutError):
                while len(jobs) < count:
                    connection.drain_events(timeout=10)
        return jobs

    def forget(self):
        self.queue.close()
        name = queue_name(self.url, self.jobs, self.data_dir)
        if self.url == REDIS:
            with redis.Redis.from_url(REDIS) as client:
                for key in client.scan_iter(f"{name}:*"):
                    client.delete(key)
        else:
            with kombu.Connection(self.url) as connection:
                kombu.Queue(name, channel=connection.default_channel).delete()
                if self.url == AMQP:
                    kombu.Exchange(name, channel=connection.default_channel).delete()


class Recorded:
    def __init__(self):
        self.queue = RecordingQueue()

    def arrived(self, count):
        return self.queue.taken()


@pytest.fixture(params=["recording", *BROKERS])
def carrier(request, tmp_path):
    if request.param == "recording":
        yield Recorded()
        return
    answering(BROKERS[request.param])
    carrier = OverABroker(BROKERS[request.param], tmp_path)
    yield carrier
    carrier.forget()


def answering(url):
    try:
        with kombu.Connection(url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=0)
    except Exception as error:
        reason = f"no broker at {kombu.Connection(url).as_uri()}: {error}"
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def test_jobs_arrive_with_their_ids_in_the_order_of_sending(carrier):
    for number in range(20):
        carrier.queue.send("consolidate", f"op_{number}")
    carrier.queue.send("sweep")
    carrier.queue.send("purge", "op", "é 中 \u2028")
    expected = [("consolidate", (f"op_{number}",)) for number in range(20)]
    assert carrier.arrived(22) == [*expected, ("sweep", ()), ("purge", ("op", "é 中 \u2028"))]


def test_many_threads_send_at_once(carrier):
    def send(name):
        for number in range(50):
            carrier.queue.send("embed", f"{name}-{number}")

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(carrier.arrived(200)) == sorted(
        ("embed", (f"{name}-{number}",)) for name in range(4) for number in range(50)
    )


def usual_seconds(queue, count):
    """Of one send. The median: now and then the machine does something else."""
    took = []
    for number in range(count):
        began = time.perf_counter()
        queue.send("embed", str(number))
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def test_sending_returns_at_once(carrier):
    assert usual_seconds(carrier.queue, 500) < 0.001


async def test_a_broker_that_answers_passes_the_check(carrier):
    await carrier.queue.check()


async def test_the_null_queue_carries_nothing_and_is_well():
    queue = NullQueue()
    queue.send("embed", "op")
    await queue.check()


@pytest.fixture(params=NOBODY)
def unreachable(request, tmp_path):
    carrier = OverABroker(NOBODY[request.param], tmp_path, backlog=10)
    yield carrier
    carrier.queue.close(0)


async def test_without_a_broker_sending_returns_at_once_and_the_check_says_so(unreachable):
    assert usual_seconds(unreachable.queue, 200) < 0.000_5
    with pytest.raises(BrokerUnavailable) as raised:
        await unreachable.queue.check()
    assert "secret" not in f"{raised.value.detail} {raised.value.facts}"


async def test_what_does_not_fit_is_dropped_and_counted(unreachable):
    for number in range(200):
        unreachable.queue.send("embed", str(number))
    stats = unreachable.queue.stats()
    assert stats.sent == 0
    assert stats.waiting <= 10
    # one more is in the hands of the publishing thread
    assert 189 <= stats.dropped <= 190


async def test_a_job_that_waits_already_is_not_sent_twice(unreachable):
    for _ in range(100):
        unreachable.queue.send("embed", "op")
    assert unreachable.queue.stats().waiting <= 1
    assert unreachable.queue.stats().dropped == 0


@pytest.fixture(params=["redis", "amqp"])
def silent(request, tmp_path):
    """Takes the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        carrier = OverABroker(f"{request.param}://127.0.0.1:{listener.getsockname()[1]}", tmp_path)
        yield carrier
        carrier.queue.close(0)


async def test_a_silent_broker_blocks_neither_senders_nor_the_event_loop(silent):
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    turning = asyncio.create_task(turn())
    silent.queue.send("embed", "op")
    began = time.perf_counter()
    with pytest.raises(BrokerUnavailable):
        await silent.queue.check()
    assert time.perf_counter() - began < 8
    turning.cancel()
    assert turns > 500


def test_closing_flushes(carrier):
    if isinstance(carrier, Recorded):
        pytest.skip("holds nothing back")
    for number in range(100):
        carrier.queue.send("embed", str(number))
    carrier.queue.close(10)
    assert len(carrier.arrived(100)) == 100
    carrier.queue.send("embed", "too late")
    assert carrier.queue.stats().dropped == 1


def test_closing_takes_a_second_at_most_and_may_be_repeated(unreachable):
    unreachable.queue.send("embed", "op")
    began = time.perf_counter()
    unreachable.queue.close()
    unreachable.queue.close()
    assert time.perf_counter() - began < 3  # a machine that has other work gives the thread its turn late


def test_the_environment_of_another_project_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://127.0.0.1:1/0")
    carrier = OverABroker("memory://", tmp_path)
    carrier.queue.send("embed", "op")
    assert carrier.arrived(1) == [("embed", ("op",))]
    carrier.forget()


def test_systems_in_one_process_have_queues_of_their_own(tmp_path):
    jobs = JobSettings()
    names = {queue_name("memory://", jobs, tmp_path / name) for name in ("a", "b")}
    assert len(names) == 2
    assert queue_name("memory://", jobs, Path("x")) == queue_name("memory://", jobs, Path.cwd() / "x")
    assert queue_name(REDIS, jobs, tmp_path) == "stratamem"
