import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.tiers.semantic import policy

NOTHING = policy.Clustering(np.zeros((0, 256), np.float32), np.zeros(0, np.int64))


def directions(n, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((1, 256))
    return policy.unit((base + spread * rng.standard_normal((n, 256))).astype(np.float32))


def assign(clustering, segments, per_cluster=8, most=2048, join=0.55):
    return policy.assign(clustering, segments, per_cluster=per_cluster, most=most, join_similarity=join)


def test_the_projection_is_orthonormal_and_always_the_same():
    onto = policy.projection(384)
    np.testing.assert_allclose(onto.T @ onto, np.eye(256), atol=1e-5)
    np.testing.assert_array_equal(onto, policy.projection(384))


def test_few_dimensions_stay_as_they_are_up_to_a_rotation():
    vectors = policy.unit(np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32))
    projected = policy.project(vectors, policy.projection(64))
    np.testing.assert_allclose(projected @ projected.T, vectors @ vectors.T, atol=1e-5)


def test_projected_cosines_are_near_the_true_ones():
    vectors = policy.unit(np.random.default_rng(1).standard_normal((200, 384)).astype(np.float32))
    projected = policy.project(vectors, policy.projection(384))
    assert np.abs(projected @ projected.T - vectors @ vectors.T).max() < 0.25
    assert np.abs(projected @ projected.T - vectors @ vectors.T).mean() < 0.03


@settings(max_examples=30)
@given(st.integers(0, 80), st.integers(0, 5), st.integers(1, 10))
def test_every_segment_has_a_cluster_and_sizes_add_up(n, seed, per_cluster):
    clustering, joined = assign(NOTHING, directions(n, seed), per_cluster=per_cluster)
    assert len(joined) == n
    np.testing.assert_array_equal(np.bincount(joined, minlength=len(clustering.sizes)), clustering.sizes)


@settings(max_examples=30)
@given(st.integers(1, 120), st.integers(1, 8), st.integers(1, 12))
def test_there_is_about_one_cluster_for_so_many_segments_and_never_more_than_the_most(n, per_cluster, most):
    clustering, _ = assign(NOTHING, directions(n, spread=9.0), per_cluster=per_cluster, most=most, join=0.99)
    assert len(clustering.sums) <= min(most, -(-n // per_cluster))


def test_one_by_one_or_all_at_once_gives_the_same_clusters():
    segments = directions(40, seed=3)
    at_once, joined = assign(NOTHING, segments)
    clustering, places = NOTHING, []
    for segment in segments:
        clustering, place = assign(clustering, segment[None, :])
        places.append(int(place[0]))
    assert places == joined.tolist()
    np.testing.assert_allclose(clustering.sums, at_once.sums, atol=1e-4)


def test_two_topics_make_two_clusters():
    first, second = directions(20, seed=1, spread=0.3), directions(20, seed=2, spread=0.3)
    _, joined = assign(NOTHING, np.concatenate([first, second]))
    assert len(set(joined[:20].tolist()) & set(joined[20:].tolist())) == 0


def leaving(segments, uses=None, idle=None, surplus=1):
    n = len(segments)
    return policy.leaving(
        segments,
        uses=np.zeros(n, np.int64) if uses is None else np.array(uses),
        idle_seconds=np.zeros(n) if idle is None else np.array(idle, float),
        surplus=surplus,
    ).tolist()


def test_the_longest_unused_leaves_first():
    assert leaving(np.eye(3, 256, dtype=np.float32), idle=[60, 7_200, 600]) == [1]


def test_an_old_but_often_used_segment_stays():
    assert leaving(np.eye(2, 256, dtype=np.float32), uses=[20, 0], idle=[3_600, 1_800]) == [1]


def test_a_fresh_double_goes_before_an_old_one_of_a_kind():
    segments = np.eye(3, 256, dtype=np.float32)
    segments[2] = segments[1]
    assert leaving(segments, idle=[1_200, 0, 0]) in ([1], [2])


def test_of_two_doubles_only_one_goes_for_being_double():
    segments = np.eye(4, 256, dtype=np.float32)
    segments[3] = segments[2]
    gone = leaving(segments, idle=[1_800, 1_900, 0, 0], surplus=2)
    assert len({2, 3} & set(gone)) == 1


@pytest.mark.parametrize("surplus", [-3, 0])
def test_nothing_leaves_while_there_is_room(surplus):
    assert leaving(np.eye(3, 256, dtype=np.float32), surplus=surplus) == []


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 40))
def test_exactly_the_surplus_leaves_each_once(n, surplus):
    gone = leaving(directions(n), surplus=surplus)
    assert len(gone) == len(set(gone)) == min(n, surplus)
