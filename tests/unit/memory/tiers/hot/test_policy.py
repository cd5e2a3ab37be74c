from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.domain.events import Event, EventVisibility, Extent, Role
from memory.domain.moves import Reason
from memory.domain.recall import TierName
from memory.tiers.hot import policy


def log(tokens):
    events, start = [], 0
    for seq, count in enumerate(tokens, start=1):
        events.append(
            Event(
                event_key=seq,
                session_key=1,
                seq=seq,
                event_id=f"e{seq}",
                agent_id=None,
                role=Role.USER,
                name=None,
                content="x",
                metadata={},
                visibility=EventVisibility.SESSION,
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
                token_count=count,
                token_start=start,
                turn=seq,
            )
        )
        start += count
    return events, start


def in_window(events, total, window, grid):
    start = policy.threshold(total, window, grid)
    return [event for event in events if event.token_start >= start]


logs = st.lists(st.integers(0, 300), max_size=60)


@given(logs, st.integers(1, 4_000), st.integers(1, 512))
def test_the_window_never_holds_more_than_fits(tokens, window, grid):
    events, total = log(tokens)
    assert sum(event.token_count for event in in_window(events, total, window, grid)) <= window


@given(logs, st.integers(1, 4_000), st.integers(1, 512))
def test_the_window_gives_up_less_than_one_range_and_one_event_too_much(tokens, window, grid):
    events, total = log(tokens)
    held = sum(event.token_count for event in in_window(events, total, window, grid))
    longest = max(tokens, default=0)
    assert held == total or held > window - grid - longest


@given(logs, st.integers(1, 512))
def test_ranges_account_for_every_token_exactly(tokens, grid):
    events, total = log(tokens)
    ranges = policy.ranges(events, grid)
    assert sum(part.tokens for part in ranges) == total
    assert [part.first_seq for part in ranges[1:]] == [part.last_seq + 1 for part in ranges[:-1]]
    assert [part.token_start for part in ranges[1:]] == [part.token_end for part in ranges[:-1]]


@given(logs, logs, st.integers(1, 4_000), st.integers(1, 512))
def test_what_has_left_the_window_never_comes_back(before, after, window, grid):
    _, earlier = log(before)
    _, later = log(before + after)
    assert policy.threshold(later, window, grid) >= policy.threshold(earlier, window, grid)


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (1, 1), (512, 1), (513, 2)])
def test_a_block_that_is_begun_counts(tokens, expected):
    assert policy.blocks(tokens) == expected


def test_a_small_window_has_small_ranges():
    assert policy.grid_of(800, 4_096) == 100
    assert policy.grid_of(131_072, 4_096) == 4_096
    assert policy.grid_of(1, 4_096) == 1


def test_what_the_window_left_is_one_move():
    events, _ = log([10, 20, 30])
    move = policy.slide(7, [Extent(e.seq, e.token_start, e.token_count) for e in events[:2]])
    assert (move.session_key, move.reason, move.origin, move.target) == (
        7,
        Reason.WINDOW_SLID,
        TierName.HOT,
        TierName.SEMANTIC,
    )
    assert (move.first_seq, move.last_seq, move.pieces, move.size, move.unit) == (1, 2, 2, 30, "tokens")
    assert (move.score, move.parts) == (None, None)
