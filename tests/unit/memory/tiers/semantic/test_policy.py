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


def test_importance_grows_with_the_length_and_ends_at_one():
    found = policy.importance(np.array([0, 5, 100, 1_000, 50_000]))
    assert found[0] == 0
    assert (np.diff(found[:4]) > 0).all()
    assert found[3] == pytest.approx(1.0)
    assert found[4] == 1
