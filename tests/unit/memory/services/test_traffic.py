import threading
import time

import pytest

from memory.services.traffic import Traffic

PATIENCE = 0.3


@pytest.fixture
def traffic():
    return Traffic(patience=PATIENCE)


def seconds_to_give_way(traffic):
    begun = time.monotonic()
    traffic.give_way()
    return time.monotonic() - begun


def test_a_process_without_requests_keeps_nobody_waiting(traffic):
    assert seconds_to_give_way(traffic) < 0.01


def test_work_waits_while_a_request_is_answered_and_goes_on_after_it(traffic):
    with traffic.request():
        waiter = threading.Thread(target=traffic.give_way)
        waiter.start()
        waiter.join(PATIENCE / 3)
        assert waiter.is_alive()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()


def test_a_load_without_a_gap_holds_work_up_no_longer_than_the_patience(traffic):
    with traffic.request():
        assert PATIENCE <= seconds_to_give_way(traffic) < 3 * PATIENCE


def test_a_moment_between_two_requests_is_no_gap(traffic):
    with traffic.request():
        pass
    assert seconds_to_give_way(traffic) > 0.01


def test_a_request_that_failed_is_over_too(traffic):
    with pytest.raises(ZeroDivisionError), traffic.request():
        raise ZeroDivisionError
    time.sleep(0.05)
    assert seconds_to_give_way(traffic) < 0.01


def test_of_several_that_wait_out_a_load_only_one_goes_on_in_each_patience(traffic):
    passed = []

    def work():
        traffic.give_way()
        passed.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(3)]
    with traffic.request():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10 * PATIENCE)
    assert len(passed) == 3
    first, second, third = sorted(passed)
    assert min(second - first, third - second) > 0.9 * PATIENCE
