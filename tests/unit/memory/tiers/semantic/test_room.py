from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.domain.moves import PolicyName, Reason
from memory.domain.recall import TierName
from memory.domain.segments import TierSegment
from memory.tiers.economy import SEGMENT
from memory.tiers.semantic import room

LAST = 40


def segment(seq, **changes):
    made = TierSegment(
        segment_key=seq,
        item=2 * seq,
        seq=seq,
        turn=seq,
        audience="session",
        vector=b"",
        cluster_key=7,
        uses=0,
        last_use=0.0,
        used_seq=seq,
        characters=400,
    )
    return replace(made, **changes)


def unlike(n):
    return np.eye(n, 256, dtype=np.float32)


def seqs(departures):
    return [one.segment.seq for one in departures]


def departures(held, capacity, vectors=None, **options):
    shown = unlike(len(held)) if vectors is None else vectors
    return room.departures(held, shown, last_seq=LAST, capacity=capacity, **options)


def test_nothing_goes_while_there_is_room():
    assert departures([segment(seq) for seq in range(1, 5)], 4) == []


def test_of_equal_segments_the_oldest_goes():
    assert seqs(departures([segment(seq) for seq in range(1, 6)], 3)) == [1, 2]


def test_a_segment_that_was_used_lately_stays():
    held = [segment(1, uses=2, used_seq=LAST - 1), segment(20), segment(30)]
    assert seqs(departures(held, 2)) == [20]


def test_a_use_speaks_for_the_events_around_it_the_less_the_further_off():
    held = [segment(seq, uses=4 if seq == 20 else 0, used_seq=LAST - 1) for seq in (2, 11, 12, 19, 20, 21, 28, 29)]
    gone = departures(held, 1)
    use = {one.segment.seq: one.decision.parts.use for one in gone if one.decision.parts is not None}
    assert use[19] == use[21] > use[12] == use[28] > use[11] == use[29] == use[2] == 0


def test_uses_of_private_events_speak_for_none_that_others_see():
    held = [segment(30, uses=9, audience="private:ann"), segment(31), segment(32, audience="private:ann"), segment(33)]
    use = {one.segment.seq: one.decision.parts.use for one in departures(held, 1) if one.decision.parts is not None}
    assert use[31] == use[33] == 0 < use[32]


def test_a_short_segment_goes_before_a_long_one():
    held = [segment(20, characters=900), segment(21, characters=8), segment(22, characters=900)]
    assert seqs(departures(held, 2)) == [21]


def test_what_was_said_last_stays_even_where_nothing_has_room():
    assert seqs(departures([segment(1), segment(LAST)], 0)) == [1]


def test_rows_may_come_in_any_order():
    held = [segment(seq) for seq in range(1, 6)]
    assert seqs(departures(held[::-1], 3, unlike(5)[::-1])) == [1, 2]


def test_a_double_names_the_one_that_stays():
    vectors = unlike(4)
    vectors[2] = vectors[3]
    (gone,) = departures([segment(seq) for seq in (33, 34, 35, 36)], 3, vectors)
    assert (gone.segment.seq, gone.decision.reason) == (35, Reason.REDUNDANT)
    assert gone.like is not None
    assert gone.like.seq == 36


def test_a_shared_segment_does_not_go_for_an_agents_private_one():
    vectors = unlike(3)
    vectors[1] = vectors[2]
    held = [segment(seq, used_seq=LAST - 1) for seq in (34, 35)]
    held.append(segment(36, used_seq=LAST - 1, audience="private:ann"))
    (gone,) = departures(held, 2, vectors)
    assert gone.segment.audience == "private:ann"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4))
def test_disuse_counts_in_tierfuls_however_many_segments_an_event_has(per_event, capacity_events):
    held = [
        segment(seq, segment_key=per_event * seq + ordinal)
        for seq in range(1, LAST + 1)
        for ordinal in range(per_event)
    ]
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(held), 256)).astype(np.float32)
    gone = departures(held, capacity_events * per_event, vectors)
    oldest = next(one for one in gone if one.segment.seq == 1)
    assert oldest.decision.parts is not None
    np.testing.assert_allclose(oldest.decision.parts.recency, -1 - np.log((LAST - 1) / capacity_events))


def test_what_leaves_is_written_down_one_by_one_with_its_parts():
    gone = departures([segment(1, cluster_key=3), segment(2), segment(3)], 2)
    (move,) = room.leaves(11, gone)
    assert (move.session_key, move.origin, move.target) == (11, TierName.SEMANTIC, TierName.LONGTERM)
    assert (move.reason, move.first_seq, move.last_seq, move.pieces) == (Reason.LEAST_VALUE, 1, 1, 1)
    assert (move.size, move.unit, move.cluster_key) == (SEGMENT.bytes, "bytes", 3)
    assert move.parts == gone[0].decision.parts
    assert move.score == gone[0].decision.score


def test_a_baseline_is_written_down_without_parts():
    (gone,) = departures([segment(1), segment(2)], 1, policy=PolicyName.FIFO)
    (move,) = room.leaves(11, [gone])
    assert (move.reason, move.parts) == (Reason.FIRST_IN, None)


def test_what_a_cluster_takes_in_is_one_move():
    new = [segment(4), segment(6), segment(5), segment(9)]
    moves = room.joins(11, "session", new, [1, 2, 1, 1], known=1)
    assert [(m.reason, m.cluster_key, m.pieces, m.first_seq, m.last_seq) for m in moves] == [
        (Reason.JOINED, 1, 3, 4, 9),
        (Reason.FOUNDED, 2, 1, 6, 6),
    ]
    assert {(m.origin, m.target, m.size) for m in moves} == {
        (TierName.LONGTERM, TierName.SEMANTIC, 3 * SEGMENT.bytes),
        (TierName.LONGTERM, TierName.SEMANTIC, SEGMENT.bytes),
    }


def test_what_is_passed_by_is_one_move_a_visibility_class():
    moves = room.passed_by(11, [segment(1), segment(2, audience="private:ann"), segment(3)])
    assert [(m.audience, m.pieces, m.first_seq, m.last_seq) for m in moves] == [
        ("private:ann", 1, 2, 2),
        ("session", 2, 1, 3),
    ]
    assert {m.reason for m in moves} == {Reason.PASSED_BY}
