from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.domain.moves import PolicyName, Reason
from memory.tiers import eviction
from memory.tiers.eviction import TUNED, Pieces, base_parts, leaving

UNLIKE = np.eye(64, dtype=np.float32)
FAMILY = list(PolicyName)


def pieces(n, **given_):
    """n pieces that are worth the same and unlike each other, but for what is given."""
    values = {
        "idle": np.zeros(n),
        "uses": np.zeros(n),
        "around": np.zeros(n),
        "importance": np.zeros(n),
        "costs": np.ones(n),
        "protected": np.zeros(n),
        "audiences": np.zeros(n),
        "vectors": UNLIKE[:n],
    } | given_
    kinds = {"uses": np.int64, "protected": np.bool_, "audiences": np.int64, "vectors": np.float32}
    return Pieces(**{name: np.asarray(value, kinds.get(name, np.float64)) for name, value in values.items()})


def places(found):
    return [one.place for one in found]


@st.composite
def any_pieces(draw, least=0, most=40):
    n = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 1_000)))
    spread = draw(st.sampled_from([0.01, 1.0, 10.0]))
    vectors = rng.standard_normal((1, 8)) + spread * rng.standard_normal((n, 8))
    return pieces(
        n,
        idle=rng.exponential(1.0, n) * rng.integers(0, 2, n),
        uses=rng.integers(0, 5, n),
        around=rng.random(n),
        importance=rng.random(n),
        costs=rng.choice([0.001, 1.0], n),
        protected=rng.random(n) < draw(st.sampled_from([0, 0.3, 1])),
        audiences=rng.integers(0, 3, n),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )


def test_the_longest_unused_goes_first():
    assert places(leaving(pieces(3, idle=[0.1, 2.0, 0.5]), 1)) == [1]


def test_an_old_but_often_used_piece_stays():
    assert places(leaving(pieces(2, uses=[20, 0], idle=[1.0, 0.5]), 1)) == [1]


def test_what_was_used_around_a_piece_speaks_for_it_but_not_with_lfu():
    held = pieces(3, around=[0.0, 2.0, 0.0], idle=[0.2, 0.4, 0.2])
    assert places(leaving(held, 2)) == [0, 2]
    assert places(leaving(held, 1, PolicyName.LFU)) == [1]


def test_beyond_a_tierful_disuse_counts_ever_less():
    recency, *_ = base_parts(pieces(5, idle=[0.0, 0.5, 1.0, np.e, 10.0]))
    assert recency == pytest.approx([0.0, -0.5, -1.0, -2.0, -1 - np.log(10)])


def test_an_important_piece_stays():
    assert places(leaving(pieces(2, importance=[1.0, 0.0], idle=[0.5, 0.0]), 1)) == [1]


def test_what_is_dear_to_have_back_stays():
    assert places(leaving(pieces(2, costs=[10.0, 0.1], idle=[0.5, 0.0]), 1)) == [1]


def test_a_fresh_double_goes_before_an_old_one_of_a_kind():
    vectors = UNLIKE[[0, 1, 1]]
    (gone,) = leaving(pieces(3, idle=[0.3, 0.0, 0.0], vectors=vectors), 1)
    assert gone.place in (1, 2)
    assert (gone.reason, gone.nearest) == (Reason.REDUNDANT, 3 - gone.place)


def test_of_two_doubles_only_one_goes_for_being_double():
    gone = leaving(pieces(4, idle=[0.3, 0.4, 0.0, 0.0], vectors=UNLIKE[[0, 1, 2, 2]]), 2)
    assert [one.reason for one in gone] == [Reason.REDUNDANT, Reason.LEAST_VALUE]
    assert gone[0].place in (2, 3)
    assert gone[1].place == 1


def test_what_some_cannot_see_does_not_stand_in_for_what_all_see():
    doubles = UNLIKE[[0, 1, 1]]
    held = pieces(3, idle=[0.3, 0.0, 0.0], audiences=[0, 0, 1], vectors=doubles)
    (gone,) = leaving(held, 1)
    assert (gone.place, gone.nearest) == (2, 1)  # the private one: all who see it see the shared one too
    apart = replace(held, audiences=np.array([0, 1, 2]))
    (gone,) = leaving(apart, 1)
    assert (gone.place, gone.nearest, gone.reason) == (0, None, Reason.LEAST_VALUE)


def test_a_decision_says_what_its_score_is_the_sum_of():
    (gone,) = leaving(pieces(3, idle=[0.0, 0.4, 0.0], uses=[1, 1, 2], vectors=UNLIKE[[0, 1, 1]]), 1)
    parts = gone.parts
    assert gone.score == pytest.approx(
        parts.recency + parts.use + parts.importance + parts.cost + parts.redundancy, abs=1e-6
    )
    assert (parts.recency, parts.redundancy) == (pytest.approx(-0.4), pytest.approx(-TUNED.redundancy))


@pytest.mark.parametrize(
    ("policy", "first", "reason"),
    [
        (PolicyName.LRU, 2, Reason.LONGEST_UNUSED),
        (PolicyName.LFU, 1, Reason.LEAST_USED),
        (PolicyName.FIFO, 0, Reason.FIRST_IN),
    ],
)
def test_each_baseline_goes_by_its_own_rule(policy, first, reason):
    (gone,) = leaving(pieces(4, idle=[0.1, 0.2, 0.9, 0.0], uses=[3, 0, 2, 1]), 1, policy)
    assert (gone.place, gone.reason, gone.parts) == (first, reason, None)


def test_lfu_breaks_ties_by_disuse():
    assert places(leaving(pieces(3, idle=[0.1, 0.5, 0.2]), 2, PolicyName.LFU)) == [1, 2]


def test_random_draws_without_regard_to_place_and_the_same_each_time():
    vectors = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    held = pieces(400, vectors=vectors)
    gone = places(leaving(held, 200, PolicyName.RANDOM))
    assert gone == places(leaving(held, 200, PolicyName.RANDOM))
    assert 60 <= sum(place < 200 for place in gone) <= 140


@settings(max_examples=60, deadline=None)
@given(any_pieces(), st.integers(-3, 50), st.sampled_from(FAMILY))
def test_exactly_the_surplus_goes_each_once_and_never_what_is_protected(held, surplus, policy):
    gone = places(leaving(held, surplus, policy))
    assert len(gone) == len(set(gone)) == max(0, min(surplus, int((~held.protected).sum())))
    assert not held.protected[gone].any()


@settings(max_examples=60, deadline=None)
@given(any_pieces(least=1), st.sampled_from([p for p in FAMILY if p is not PolicyName.LRU_SIMILARITY]))
def test_a_larger_surplus_takes_more_of_the_same_order(held, policy):
    """But for likeness, which is to what stays: two that are alike never go both for that."""
    n = len(held)
    every = places(leaving(held, n, policy))
    assert all(places(leaving(held, surplus, policy)) == every[:surplus] for surplus in range(len(every)))


@settings(max_examples=60, deadline=None)
@given(any_pieces(least=2), st.data())
def test_a_use_never_makes_a_piece_go(held, data):
    """What stays still stays when it was used once more, whatever else happens."""
    surplus = data.draw(st.integers(1, len(held)))
    stayed = set(range(len(held))) - set(places(leaving(held, surplus)))
    if stayed:
        used = data.draw(st.sampled_from(sorted(stayed)))
        uses, idle = held.uses.copy(), held.idle.copy()
        uses[used] += 1
        idle[used] = 0.0
        assert used not in places(leaving(replace(held, uses=uses, idle=idle), surplus))


@settings(max_examples=40, deadline=None)
@given(any_pieces(least=1))
def test_likeness_takes_no_more_than_its_weight(held):
    base = np.stack(base_parts(held)).sum(axis=0)
    for one in leaving(held, len(held)):
        assert base[one.place] - TUNED.redundancy - 1e-6 <= one.score <= base[one.place] + 1e-6


@settings(max_examples=40, deadline=None)
@given(any_pieces(least=1))
def test_a_reason_of_likeness_names_what_stays_and_is_seen_by_as_many(held):
    gone = leaving(held, max(1, len(held) // 2))
    left = set()
    for one in gone:
        if one.reason is Reason.REDUNDANT:
            assert one.nearest is not None
            assert one.nearest not in left
            assert held.audiences[one.nearest] in (0, held.audiences[one.place])
        left.add(one.place)


def test_many_at_once_go_in_rounds_and_all_that_can_go_are_considered(monkeypatch):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((300, 16))
    held = pieces(300, idle=rng.random(300), vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    at_once = leaving(held, 120)
    monkeypatch.setattr(eviction, "_AT_ONCE", 7)
    assert places(leaving(held, 120)) == places(at_once)
