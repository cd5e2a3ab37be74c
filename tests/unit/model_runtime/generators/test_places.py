import random
import threading

import pytest

from model_runtime.generators.job import Failed, Job
from model_runtime.generators.places import PlaceOptions, Places, QueueFull
from model_runtime.generators.sampling import SamplingOptions

SMALL = PlaceOptions(places=4, of_tenant=3, waiting=6, waiting_of_tenant=4, warm=2)


@pytest.fixture
def places():
    return Places(SMALL)


def job(tenant="a", key=None, *, warm=False, emit=lambda event: None):
    return Job((1,), SamplingOptions(), b"n" * 32, "exact", emit, tenant=tenant, memory_key=key, warm=warm)


def test_of_one_tenant_the_first_that_came_is_the_next(places):
    first, second = job(), job()
    places.enter(first)
    places.enter(second)
    assert [places.next([]), places.next([first]), places.next([first, second])] == [first, second, None]


def test_a_tenant_never_holds_all_places(places):
    running = []
    for _ in range(4):
        places.enter(job("a"))
    while taken := places.next(running):
        running.append(taken)
    assert (len(running), places.waiting) == (3, 1)
    late = job("b")
    places.enter(late)
    assert places.next(running) is late


def test_who_has_the_fewest_comes_next(places):
    running = [job("a"), job("a"), job("b")]
    for tenant in "abc":
        places.enter(job(tenant))
    assert places.next(running).tenant == "c"


def test_a_tenant_never_fills_the_queue_and_all_of_them_can(places):
    for _ in range(4):
        places.enter(job("a"))
    with pytest.raises(QueueFull) as own:
        places.enter(job("a"))
    assert own.value.of_tenant
    places.enter(job("b"))
    places.enter(job("c"))
    with pytest.raises(QueueFull) as full:
        places.enter(job("d"))
    assert not full.value.of_tenant


def test_who_has_gone_takes_no_room_in_the_queue(places):
    gone = [job("a") for _ in range(4)]
    for one in gone:
        places.enter(one)
        one.cancelled.set()
    stays = job("a")
    places.enter(stays)
    assert [places.next([]) for _ in range(5)] == [*gone, stays]  # they are told, at once
    assert places.waiting == 0


def test_work_ahead_waits_until_nobody_else_does(places):
    ahead, answer = job("a", "s", warm=True), job("b")
    places.enter(ahead)
    places.enter(answer)
    assert places.next([]) is answer
    assert places.next([answer]) is None
    assert places.next([]) is ahead
    other = job("b")
    places.enter(other)
    assert places.next([ahead]) is other  # it takes no place from anybody


def test_of_a_session_only_the_newest_work_ahead_is_left_and_none_once_it_is_asked(places):
    told = []
    old, new = (job("a", "s", warm=True, emit=told.append) for _ in range(2))
    places.enter(old)
    places.enter(new)
    assert (len(told), isinstance(told[0], Failed)) == (1, True)
    places.enter(job("a", "s"))
    assert len(told) == 2
    assert places.next([]).warm is False
    assert places.next([]) is None


def test_work_ahead_of_many_sessions_is_bounded(places):
    told = []
    for key in "xyz":
        places.enter(job("a", key, warm=True, emit=lambda event, key=key: told.append(key)))
    assert told == ["x"]
    assert [one.memory_key for one in places.drain()] == ["y", "z"]


def test_many_threads_lose_no_job():
    places = Places(PlaceOptions(waiting=1_000, waiting_of_tenant=1_000))
    threads = [
        threading.Thread(target=lambda: [places.enter(job(random.choice("abc"))) for _ in range(100)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    taken = 0
    while taken < 400:
        taken += places.next([]) is not None
    for thread in threads:
        thread.join()
    assert places.waiting == 0
