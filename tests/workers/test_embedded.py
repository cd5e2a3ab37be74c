"""The workers inside the API process."""

import asyncio
import logging
import os
import pickle
import signal
import sys
import threading
import time

import kombu
import pytest

from memory.adapters.jobs.celery_app import job_app, queue_name
from memory.domain.errors import InvalidInput, StorageUnavailable
from memory.services.tasks import CONSOLIDATE, EMBED, EVICT, FORGET, PURGE, REEMBED, SWEEP
from workers import embedded
from workers.schedule import EXPIRE, UPKEEP

_EARLIER = set()


@pytest.fixture(autouse=True)
def _threads_of_earlier_tests():
    """A queue of another test that waits for an absent broker may still be ending."""
    _EARLIER.clear()
    _EARLIER.update(threading.enumerate())


def job_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("job") and t not in _EARLIER]


def test_every_job_calls_its_service(services, new_settings, new_queue, started, until):
    settings = new_settings(sweep_every=3600)
    started(settings, services)
    queue = new_queue(settings)
    expected = {
        CONSOLIDATE: "consolidate",
        EMBED: "embed",
        EVICT: "evict",
        PURGE: "finish_purge",
        FORGET: "finish_forget",
        REEMBED: "reembed",
    }
    for task, method in expected.items():
        queue.send(task, f"op_{task}")
        until(lambda method=method, task=task: services.ids(method) == [f"op_{task}"])
    for task, method in ((SWEEP, "sweep"), (UPKEEP, "tidy"), (EXPIRE, "expire")):
        before = services.count(method)
        queue.send(task)
        until(lambda method=method, before=before: services.count(method) == before + 1)


def test_a_job_starts_within_a_fifth_of_a_second(services, new_settings, new_queue, started, until):
    settings = new_settings()
    started(settings, services)
    queue = new_queue(settings)

    def usual_wait(numbers):
        waits = []
        for number in numbers:
            sent = time.perf_counter()
            queue.send(CONSOLIDATE, str(number))
            until(lambda number=number: str(number) in services.ids("consolidate"))
            waits.append(services.calls[-1][2] - sent)
        return sorted(waits)[len(waits) // 2]

    assert any(usual_wait(range(first, first + 10)) < 0.2 for first in (0, 10, 20)), "nor when it is asked again"


def test_an_error_in_one_job_does_not_stop_the_next(services, new_settings, new_queue, started, until, caplog):
    async def fail(operation_id):
        if operation_id == "bad":
            raise InvalidInput("no such thing")

    services.on["consolidate"] = fail
    settings = new_settings(concurrency=1)
    started(settings, services)
    queue = new_queue(settings)
    queue.send(CONSOLIDATE, "bad")
    queue.send(CONSOLIDATE, "good")
    until(lambda: services.ids("consolidate") == ["bad", "good"])
    assert "('bad',)" in caplog.text


def test_a_malformed_and_an_unknown_job_do_not_stop_the_next(services, new_settings, new_queue, started, until):
    settings = new_settings(concurrency=1)
    started(settings, services)
    queue = new_queue(settings)
    queue.send(CONSOLIDATE)
    queue.send(CONSOLIDATE, "too", "many")
    queue.send("unheard_of", "op")
    queue.send(CONSOLIDATE, "good")
    until(lambda: "good" in services.ids("consolidate"))


def test_a_passing_error_is_tried_again_until_it_works(services, new_settings, new_queue, started, until):
    async def fail_twice(operation_id):
        if len(services.ids("embed")) < 3:
            raise StorageUnavailable("the database restarts")

    services.on["embed"] = fail_twice
    settings = new_settings()
    started(settings, services)
    new_queue(settings).send(EMBED, "op")
    until(lambda: len(services.ids("embed")) == 3)
    time.sleep(0.5)
    assert len(services.ids("embed")) == 3


def test_tries_are_bounded_and_other_jobs_run_between_them(services, new_settings, new_queue, started, until, caplog):
    async def fail(operation_id):
        raise StorageUnavailable("the database is gone")

    services.on["embed"] = fail
    settings = new_settings(retries=2, retry_after=0.2, concurrency=1)
    started(settings, services)
    queue = new_queue(settings)
    queue.send(EMBED, "op")
    queue.send(EVICT, "other")
    until(lambda: "left to the sweep" in caplog.text)
    time.sleep(0.5)
    assert [name for name, _, _ in services.calls if name in ("embed", "evict")] in (
        ["embed", "evict", "embed", "embed"],
        ["embed", "embed", "evict", "embed"],
    )


def test_sweeps_and_upkeep_come_by_themselves(services, new_settings, started, until):
    started(new_settings(sweep_every=0.1, upkeep_every=0.2, expire_every=0.2), services)
    until(lambda: services.count("sweep") >= 5 and min(map(services.count, ("tidy", "expire"))) >= 3)


def test_stop_leaves_nothing_running(services, new_settings, new_queue, started, until):
    before = set(threading.enumerate())
    settings, took = new_settings(), []
    for number in (1, 2, 3):
        began = time.perf_counter()
        crew = started(settings, services)
        took.append(time.perf_counter() - began)
        assert crew.healthy
        assert crew.stop()
        assert set(threading.enumerate()) == before
        assert services.opened == services.closed == number
        assert not crew.healthy
    assert min(took) < 1


def test_stop_waits_for_a_short_job(services, new_settings, new_queue, started, until):
    done = []

    async def work(operation_id):
        await asyncio.sleep(0.5)
        done.append(operation_id)

    services.on["consolidate"] = work
    settings = new_settings()
    crew = started(settings, services)
    new_queue(settings).send(CONSOLIDATE, "op")
    until(lambda: services.ids("consolidate"))
    assert crew.stop(5)
    assert done == ["op"]


def test_stop_cancels_a_long_job_before_the_container_closes(services, new_settings, new_queue, started, until):
    ended = []

    async def work(operation_id):
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            ended.append(services.closed)
            raise

    services.on["consolidate"] = work
    settings = new_settings()
    crew = started(settings, services)
    new_queue(settings).send(CONSOLIDATE, "op")
    until(lambda: services.ids("consolidate"))
    began = time.perf_counter()
    assert crew.stop(2)
    assert time.perf_counter() - began < 10
    assert ended == [0]
    assert services.closed == 1
    assert job_threads() == ["job-publisher"]  # the test's own queue


def test_stop_says_when_native_code_can_not_be_ended(services, new_settings, new_queue, started, until):
    ended = threading.Event()

    def native() -> None:
        time.sleep(4)
        ended.set()

    services.on["embed"] = lambda operation_id: asyncio.to_thread(native)
    settings = new_settings()
    crew = started(settings, services)
    new_queue(settings).send(EMBED, "op")
    until(lambda: services.ids("embed"))
    assert not crew.stop(1)
    assert not ended.is_set()
    until(lambda: services.closed == 1)


def test_workers_start_again_in_the_same_process(services, new_settings, new_queue, started, until):
    settings = new_settings()
    for number in range(3):
        crew = started(settings, services)
        new_queue(settings).send(EVICT, str(number))
        until(lambda number=number: services.ids("evict")[-1:] == [str(number)])
        assert crew.stop()


def test_two_systems_in_one_process_do_not_cross(new_services, new_settings, new_queue, started, until, tmp_path):
    ours, theirs = new_services(), new_services()
    here = new_settings(data_dir=tmp_path / "here", queue="same")
    there = new_settings(data_dir=tmp_path / "there", queue="same")
    crew = started(here, ours)
    started(there, theirs)
    to_us, to_them = new_queue(here), new_queue(there)
    for number in range(50):
        to_us.send(EMBED, f"ours-{number}")
        to_them.send(EMBED, f"theirs-{number}")
    until(lambda: len(ours.ids("embed")) == len(theirs.ids("embed")) == 50)
    assert {id_.split("-")[0] for id_ in ours.ids("embed")} == {"ours"}
    assert crew.stop()
    to_them.send(EMBED, "still there")
    until(lambda: theirs.ids("embed")[-1] == "still there")


def test_a_container_that_does_not_open_is_an_error_of_the_start(new_settings, services):
    def refuse():
        raise StorageUnavailable("no database")

    services.open = refuse
    with pytest.raises(StorageUnavailable):
        embedded.start(new_settings(), open_services=lambda: services.open())
    assert job_threads() == []


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def publish_raw(settings, body, content_type="application/json", encoding="utf-8", **headers):
    app = job_app(settings.broker_url, settings.jobs, settings.data_dir)
    name = queue_name(settings.broker_url, settings.jobs, settings.data_dir)
    with app.connection_for_write() as connection:
        kombu.Producer(connection).publish(
            body,
            routing_key=name,
            exchange="",
            content_type=content_type,
            content_encoding=encoding,
            headers={"lang": "py", "task": CONSOLIDATE, "id": "x", "root_id": "x", "retries": 0, **headers},
            declare=[kombu.Queue(name, kombu.Exchange(name), routing_key=name)],
        )


@pytest.mark.parametrize("body", [b"5", b"[]", b"{", b"", b"null", b'{"args": 1}', b'[[{"a": 1}], {}, {}]', b"\xff"])
def test_messages_that_nobody_of_us_sent_are_dropped(body, services, new_settings, new_queue, started, until, caplog):
    settings = new_settings(concurrency=1)
    started(settings, services)
    publish_raw(settings, body)
    publish_raw(settings, body, eta="never", retries="many", expires="?")
    new_queue(settings).send(CONSOLIDATE, "good")
    until(lambda: "good" in services.ids("consolidate"))
    assert "starting it again" not in caplog.text


def test_pickles_are_refused(any_broker, services, new_settings, new_queue, started, until, tmp_path):
    settings = new_settings(any_broker, concurrency=1)
    started(settings, services)
    body = pickle.dumps(((Trap(tmp_path / "trapped"),), {}, {}))
    publish_raw(settings, body, "application/x-python-serialize", "binary")
    new_queue(settings).send(CONSOLIDATE, "good")
    until(lambda: services.ids("consolidate") == ["good"])
    assert not (tmp_path / "trapped").exists()


def test_handlers_of_signals_and_logs_stay_as_they_are(services, new_settings, started):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    handlers, out, hook = list(logging.root.handlers), sys.stdout, threading.excepthook
    crew = started(new_settings(), services)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
    assert (logging.root.handlers, sys.stdout, threading.excepthook) == (handlers, out, hook)
    crew.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have their own priority on Linux only")
def test_jobs_and_what_they_start_yield_to_requests(services, new_settings, new_queue, started, until):
    seen = []

    def priority():
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    async def look(operation_id):
        priority()
        await asyncio.to_thread(priority)

    services.on["embed"] = look
    settings = new_settings()
    started(settings, services)
    new_queue(settings).send(EMBED, "op")
    until(lambda: len(seen) == 2)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert all(niceness > own for niceness in seen)
