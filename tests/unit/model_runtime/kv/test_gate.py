import pytest

from model_runtime.kv.gate import Gate, GateStats


def measured() -> Gate:
    """A disk of 1 GB/s and a prefill of 10,000 tokens/s."""
    gate = Gate()
    gate.measured_load("disk", 500_000_000, 0.5)
    gate.measured_prefill(5_000, 0.5)
    return gate


def test_before_a_measurement_everything_is_loaded() -> None:
    gate = Gate()
    assert gate.load("disk", 10**12, 1)
    gate.measured_prefill(5_000, 0.5)
    assert gate.load("disk", 10**12, 1)
    assert gate.stats() == GateStats(loads=2, recomputes=0, unmeasured=2, probes=0)


def test_the_faster_one_is_chosen() -> None:
    gate = measured()
    assert gate.load("disk", 99_000_000, 1_000)  # 0.099 s against 0.1 s
    assert not gate.load("disk", 101_000_000, 1_000)
    assert gate.load("cpu", 10**12, 1)  # not measured
    assert gate.stats() == GateStats(loads=2, recomputes=1, unmeasured=1, probes=0)


def test_the_published_loss_of_a_naive_file_tier_is_avoided() -> None:
    gate = Gate()
    gate.measured_load("disk", 1_000_000, 5.3)
    gate.measured_prefill(131_000, 5.1)
    assert not gate.load("disk", 1_000_000, 131_000)


def test_newer_measurements_count_more_and_small_ones_little() -> None:
    gate = measured()
    gate.measured_load("disk", 1_000, 0.001)  # 1 MB/s, but of nothing
    assert gate.load("disk", 99_000_000, 1_000)
    for _ in range(40):
        gate.measured_load("disk", 100_000_000, 1.0)
    assert gate.load("disk", 9_900_000, 1_000)
    assert not gate.load("disk", 10_100_000, 1_000)


def test_a_tier_that_lost_is_tried_again_now_and_then() -> None:
    gate = Gate(probe_every=4)
    gate.measured_load("disk", 1, 100.0)
    gate.measured_prefill(1_000_000, 0.001)

    assert [gate.load("disk", 100, 1) for _ in range(8)] == [False, False, False, True] * 2
    assert gate.stats() == GateStats(loads=2, recomputes=6, unmeasured=0, probes=2)


def test_what_took_no_time_is_no_measurement() -> None:
    gate = Gate()
    for amount, seconds in [(0, 1.0), (10, 0.0), (10, -1.0)]:
        gate.measured_load("disk", amount, seconds)
        gate.measured_prefill(amount, seconds)
    assert gate.load("disk", 10**12, 1)  # nothing is known
    assert gate.tokens_per_second() is None


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": 1.5}, {"probe_every": 0}])
def test_settings_that_mean_nothing_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Gate(**options)
