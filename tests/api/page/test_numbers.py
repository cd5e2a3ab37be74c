import pytest

from api.page import numbers


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0 k"), (999_960, "1.0 M"), (1_234_567, "1.2 M"), (5e12, "5.0 T")],
)
def test_counts_read_at_a_glance(number: int, shown: str) -> None:
    assert numbers.count(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (1_023, "1,023 B"), (1_024, "1.0 KiB"), (3_650_722_202, "3.4 GiB"), (200 * 2**20, "200 MiB")],
)
def test_sizes_read_at_a_glance(number: int, shown: str) -> None:
    assert numbers.size(number) == shown


def test_other_numbers_read_as_they_are_spoken() -> None:
    assert [numbers.share(part) for part in (0, 0.004, 0.94, 1)] == ["0 %", "0.4 %", "94 %", "100 %"]
    assert [numbers.seconds(number) for number in (0.42, 125, 10_920)] == ["0.4 s", "2 min 5 s", "3 h 2 min"]
    assert [numbers.of(number, "memories") for number in (1, 2)] == ["1 memory", "2 memories"]
    assert [numbers.plural(number, "block") for number in (1, 20_000)] == ["1 block", "20.0 k blocks"]
    assert [numbers.rate(number) for number in (0, 0.017, 5.42, 250)] == ["0/s", "< 0.1/s", "5.4/s", "250/s"]
