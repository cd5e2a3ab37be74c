import pytest

from model_runtime.kv.departures import Departures


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def facts(move):
    return (move.at, move.origin, move.target, move.reason, move.blocks, move.bytes)


def test_blocks_that_move_together_are_one_entry(clock):
    ring = Departures(clock)
    for _ in range(3):
        ring.note("a", "device", "host", "least_value", 10)
        ring.note("a", "host", "disk", "least_value", 7)
        clock.now += 0.2
    assert [facts(move) for move in ring.of("a")] == [
        (100.0, "host", "disk", "least_value", 3, 21),
        (100.0, "device", "host", "least_value", 3, 30),
    ]


def test_a_second_later_it_is_another_entry_and_the_newest_comes_first(clock):
    ring = Departures(clock)
    ring.note("a", "device", None, "purged", 10)
    clock.now += 1.0
    ring.note("a", "device", None, "purged", 10)
    assert [move.at for move in ring.of("a")] == [101.0, 100.0]


@pytest.mark.parametrize("jump", [-3_600.0, 3_600.0])
def test_a_clock_that_jumps_begins_another_entry(clock, jump):
    ring = Departures(clock)
    ring.note("a", "device", None, "purged", 10)
    clock.now += jump
    ring.note("a", "device", None, "purged", 10)
    assert [move.blocks for move in ring.of("a")] == [1, 1]


def test_a_tenant_sees_its_own(clock):
    ring = Departures(clock)
    for tenant in ("a", "b", "a"):
        ring.note(tenant, "device", "host", "over_quota", 10)
    assert [move.blocks for move in ring.of("a")] == [2]
    assert [move.blocks for move in ring.of("b")] == [1]
    assert ring.of("c") == ()


def test_only_the_latest_are_kept(clock):
    ring = Departures(clock, most=4)
    for n in range(9):
        ring.note("a", "disk", None, f"reason {n}", 1)
    assert [move.reason for move in ring.of("a")] == [f"reason {n}" for n in (8, 7, 6, 5)]
