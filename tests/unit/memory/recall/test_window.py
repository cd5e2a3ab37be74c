from hypothesis import given
from hypothesis import strategies as st

from memory.recall import window

tokens = st.lists(st.integers(1, 120), min_size=1, max_size=120)
rooms = st.integers(10, 2_000)


def shown(counts, room):
    """The anchor and the number of the first event shown, as a context computes them."""
    starts = [sum(counts[:at]) for at in range(len(counts))]
    anchor = window.first_anchor(sum(counts), room)
    later = [at for at, start in enumerate(starts) if start >= anchor]
    rendered = [counts[at] + 4 for at in later]
    anchor, first = window.anchor_that_fits([starts[at] for at in later], rendered, anchor, room)
    return anchor, ([*later, len(counts)])[first]


@given(tokens, rooms)
def test_what_is_shown_fits(counts, room):
    _, first = shown(counts, room)
    assert sum(count + 4 for count in counts[first:]) <= room


@given(tokens, rooms)
def test_the_window_begins_at_the_first_event_from_its_anchor_on(counts, room):
    anchor, first = shown(counts, room)
    starts = [sum(counts[:at]) for at in range(len(counts))]
    assert first == next((at for at, start in enumerate(starts) if start >= anchor), len(counts))


@given(tokens, rooms)
def test_as_the_log_grows_the_window_only_moves_forward_and_seldom(counts, room):
    firsts = [shown(counts[:n], room)[1] for n in range(1, len(counts) + 1)]
    assert firsts == sorted(firsts)
    moves = len(set(firsts)) - 1
    rendered = sum(counts) + 4 * len(counts)
    assert moves <= 1 + rendered // window.grid(room) + sum(count + 4 > room // 2 for count in counts)


def test_a_short_log_is_shown_whole():
    assert shown([10, 10, 10], 100) == (0, 0)


def test_recall_keeps_a_quarter_beside_a_usual_query():
    for max_tokens in range(100, 20_000, 97):
        system, summary, query = max_tokens // 20, max_tokens // 16, max_tokens // 12
        room = window.window_room(max_tokens, system, recall=True)
        left = max_tokens - system - summary - query
        assert left - room >= left // 4 - 1


def test_a_query_leaves_the_window_alone_until_there_is_no_other_room():
    for max_tokens in range(100, 20_000, 97):
        room = window.window_room(max_tokens, 0, recall=True)
        assert window.room_beside(max_tokens, 0, max_tokens // 16, max_tokens * 5 // 16) >= room - 1
    assert window.room_beside(1_000, 0, 0, 600) == 400
    assert window.room_beside(1_000, 0, 0, 1_200) == 0
