"""Workers as processes of their own, over real brokers."""

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memory.domain.errors import BrokerUnavailable, InvalidInput
from memory.services.tasks import CONSOLIDATE, EMBED, EVICT
from workers import main

SCRIPT = Path(__file__).with_name("worker_process.py")
ROOT = SCRIPT.parents[2]


class WorkerProcess:
    def __init__(self, settings):
        self._log = settings.data_dir / "calls"
        self._log.touch()
        command = [sys.executable, SCRIPT, settings.broker_url, settings.data_dir]
        self.process = subprocess.Popen(
            [*command, settings.jobs.queue, str(settings.jobs.visibility)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    @property
    def calls(self):
        return self._log.read_text().split()

    def end(self, number=signal.SIGTERM):
        """(exit code, seconds)"""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(15), time.monotonic() - began


@pytest.fixture
def new_worker():
    workers = []

    def make(settings):
        workers.append(WorkerProcess(settings))
        return workers[-1]

    yield make
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def test_the_in_process_broker_is_refused(new_settings):
    with pytest.raises(InvalidInput, match="STRATAMEM_BROKER_URL"):
        main.run(new_settings())


def test_without_a_worker_the_health_check_fails(new_settings):
    assert not main.ping(new_settings())


def test_a_process_works_shows_that_it_lives_and_ends_when_asked(broker, new_settings, new_worker, new_queue, until):
    settings = new_settings(broker)
    queue = new_queue(settings)
    queue.send(CONSOLIDATE, "early")
    worker = new_worker(settings)
    until(lambda: {"early", "sweep", "tidy"} <= set(worker.calls))
    until(lambda: main.ping(settings))
    queue.send(CONSOLIDATE, "late")
    until(lambda: "late" in worker.calls)
    code, seconds = worker.end()
    assert (code, worker.calls[-1]) == (0, "closed")
    assert seconds < 5
    assert not main.ping(settings)


def test_a_job_in_progress_at_the_stop_goes_to_the_next_worker(broker, new_settings, new_worker, new_queue, until):
    settings = new_settings(broker)
    worker = new_worker(settings)
    new_queue(settings).send(EMBED, "op")
    until(lambda: "op" in worker.calls)
    code, seconds = worker.end(signal.SIGINT)
    assert (code, worker.calls[-1]) == (0, "closed")
    assert seconds < 10
    again = new_worker(settings)
    until(lambda: again.calls.count("op") == 2)


def test_a_job_of_a_killed_worker_is_handed_out_again(broker, new_settings, new_worker, new_queue, until):
    """RabbitMQ notices the broken connection; Redis waits for `visibility`."""
    settings = new_settings(broker, visibility=2)
    worker = new_worker(settings)
    new_queue(settings).send(EMBED, "op")
    until(lambda: "op" in worker.calls)
    assert worker.end(signal.SIGKILL)[0] == -signal.SIGKILL
    again = new_worker(settings)
    until(lambda: again.calls.count("op") == 2)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_job_in_native_code_does_not_keep_the_process_beyond_ten_seconds(
    broker, new_settings, new_worker, new_queue, until
):
    settings = new_settings(broker)
    worker = new_worker(settings)
    new_queue(settings).send(EVICT, "op")
    until(lambda: "op" in worker.calls)
    code, seconds = worker.end()
    assert code == 0
    assert seconds < 10


async def test_a_broker_that_goes_away_and_comes_back(wire, services, new_settings, new_queue, started, until):
    settings = new_settings(wire.url, backlog=50)
    queue = new_queue(settings)
    with pytest.raises(BrokerUnavailable):
        await queue.check()
    crew = started(settings, services)
    assert not crew.healthy
    queue.send(CONSOLIDATE, "before the broker")
    wire.join()
    until(lambda: services.ids("consolidate") == ["before the broker"])
    until(lambda: crew.healthy)
    await queue.check()

    wire.cut()
    took = []
    for number in range(100):
        began = time.perf_counter()
        queue.send(CONSOLIDATE, str(number))
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.000_5  # now and then the machine does something else
    with pytest.raises(BrokerUnavailable):
        await queue.check()
    assert queue.stats().dropped >= 49
    assert queue.stats().waiting <= 50

    wire.join()
    until(lambda: len(services.ids("consolidate")) >= 51)
    await queue.check()
    queue.send(CONSOLIDATE, "after")
    until(lambda: "after" in services.ids("consolidate"))


def test_workers_end_although_the_broker_is_away(wire, services, new_settings, started):
    crew = started(new_settings(wire.url), services)
    began = time.monotonic()
    assert crew.stop(5)
    assert time.monotonic() - began < 4
