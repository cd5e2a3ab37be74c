"""When are the indexes written to disk, and how many candidates make an answer? Pure decisions."""

from dataclasses import dataclass

# A save rewrites all vectors (768 bytes each): it waits until a tenth is new, or this long per 100,000 rows.
_NEW_SHARE = 0.1
_ROWS_PER_WAIT = 100_000

_LEAST_WASTE = 1_000
_WASTE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Staleness:
    """Rows in the index, rows that the last save lacks, and seconds since that save."""

    rows: int
    unsaved: int
    seconds: float


def should_save(stale: Staleness, least_seconds: float) -> bool:
    if stale.unsaved == 0 or stale.seconds < least_seconds:
        return False
    patience = least_seconds * (1 + stale.rows / _ROWS_PER_WAIT)
    return stale.unsaved >= stale.rows * _NEW_SHARE or stale.seconds >= patience


def should_compact(rows: int, nobodys: int) -> bool:
    """`nobodys`: rows of vectors whose items are gone or were edited. They cost room, and nothing else."""
    return nobodys >= max(_LEAST_WASTE, rows * _WASTE_SHARE)


def widened(limit: int, total: int) -> int:
    """The next number of rows to ask for when too few distinct items were among the last."""
    return min(total, limit * 4)
