"""Whatever the segments and wherever it begins: a partition of the right size that nothing better is next to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.tiers.semantic import clustering, policy

WIDTH = 16


@st.composite
def worlds(draw):
    """Segments around a few subjects, some of them identical, and any partition of them to begin with."""
    n, subjects = draw(st.integers(1, 60)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    spread = draw(st.sampled_from([0.0, 0.4, 3.0]))
    middles = rng.standard_normal((subjects, WIDTH))
    segments = middles[rng.integers(0, subjects, n)] + spread * rng.standard_normal((n, WIDTH))
    labels = rng.integers(1, draw(st.integers(1, n)) + 1, n)
    return policy.unit(segments.astype(np.float32)), labels.astype(np.int64), draw(st.integers(1, n))


def subjects(n, seed=0, spread=0.2, count=4):
    """Far apart, `n` segments each, and which subject each has."""
    rng = np.random.default_rng(seed)
    middles = np.eye(count, 32)
    of = np.repeat(np.arange(count), n)
    return policy.unit((middles[of] + spread * rng.standard_normal((n * count, 32)) / 5).astype(np.float32)), of


def alike(one, two):
    """The same partition, whatever the labels."""
    return len(set(zip(one.tolist(), two.tolist(), strict=True))) == len(set(one.tolist())) == len(set(two.tolist()))


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_there_are_as_many_clusters_as_asked_unless_too_few_segments_differ(world):
    segments, of, count = world
    after = clustering.arranged(segments, of, count=count)
    assert after.shape == of.shape
    found = len(np.unique(after))
    assert found <= count
    lacking = len(segments) - clustering.worth(segments, after)  # to every segment being its own centroid
    assert found == count or lacking < 0.01


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_a_second_time_changes_nothing(world):
    segments, of, count = world
    once = clustering.arranged(segments, of, count=count)
    np.testing.assert_array_equal(clustering.arranged(segments, once, count=count), once)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_it_is_never_worse_than_what_it_began_with(world):
    segments, of, _ = world
    after = clustering.arranged(segments, of, count=len(np.unique(of)))
    assert clustering.worth(segments, after) >= clustering.worth(segments, of) - 1e-3


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_no_single_segment_would_gain_by_another_cluster(world):
    segments, of, count = world
    after = clustering.arranged(segments, of, count=count)
    reached = clustering.worth(segments, after)
    for at in range(len(segments)):
        for other in np.unique(after):
            elsewhere = after.copy()
            elsewhere[at] = other
            assert clustering.worth(segments, elsewhere) <= reached + 0.01


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_labels_stay_while_their_clusters_last_and_new_ones_are_above_all(world):
    segments, of, count = world
    after = clustering.arranged(segments, of, count=count)
    assert all(label in of or label > of.max() for label in after.tolist())


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_sums_are_those_of_the_members(world):
    segments, of, _ = world
    labels, sums = clustering.sums(segments, of)
    for label, total in zip(labels, sums, strict=True):
        np.testing.assert_allclose(total, segments[of == label].sum(axis=0), atol=1e-4)
    assert clustering.worth(segments, of) <= len(segments) + 1e-3


@settings(max_examples=200)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 12), st.integers(1, 300))
def test_clusters_are_shared_out_among_classes_within_the_most(sizes, per_cluster, most):
    found = clustering.counts(sizes, per_cluster=per_cluster, most=most)
    assert sum(found) <= max(most, len(sizes))
    assert all(1 <= count <= -(-size // per_cluster) for count, size in zip(found, sizes, strict=True))
    if sum(-(-size // per_cluster) for size in sizes) <= most:
        assert found == [-(-size // per_cluster) for size in sizes]


def test_subjects_that_were_thrown_together_are_split():
    segments, of = subjects(8)
    together = np.zeros(len(segments), np.int64)
    assert alike(clustering.arranged(segments, together, count=4), of)


def test_a_subject_that_was_torn_apart_is_merged_and_two_that_were_one_are_split():
    segments, of = subjects(8)
    wrong = of.copy()
    wrong[of == 0] = np.arange(8) % 2 * 7  # one subject in two clusters
    wrong[of == 2] = 1  # two subjects in one
    assert alike(clustering.arranged(segments, wrong, count=4), of)


def test_the_label_of_a_cluster_that_was_merged_away_is_not_given_out_again():
    segments, of = subjects(8)
    segments[of == 3] = np.eye(1, 32, 3)  # doubles: putting them together costs nothing, so that comes first
    labels = np.choose(of, [1, 2, 2, 3])
    labels[of == 3] = np.where(np.arange(8) % 2, 3, 9)
    labels[of == 0] = np.where(np.arange(8) % 2, 1, 8)
    after = clustering.arranged(segments, labels, count=4)
    assert alike(after, of)
    assert 9 not in after
    assert after.max() == 10


def test_when_members_have_left_what_remains_is_merged():
    segments, of = subjects(8)
    apart = np.arange(len(segments))
    after = clustering.arranged(segments, apart, count=4)
    assert alike(after, of)


def test_doubles_are_never_torn_apart():
    segments = np.repeat(np.eye(3, WIDTH, dtype=np.float32), 10, axis=0)
    after = clustering.arranged(segments, np.zeros(30, np.int64), count=10)
    assert alike(after, np.repeat(np.arange(3), 10))


@pytest.mark.parametrize("count", [1, 5])
def test_nothing_and_a_single_one(count):
    nothing = np.zeros((0, WIDTH), np.float32)
    assert len(clustering.arranged(nothing, np.zeros(0, np.int64), count=count)) == 0
    one = np.eye(1, WIDTH, dtype=np.float32)
    assert clustering.arranged(one, np.array([7]), count=count).tolist() == [7]


@pytest.mark.parametrize("seed", range(3))
def test_one_by_one_comes_to_about_what_all_at_once_comes_to(seed):
    """No drift: however the segments came, the clusters fit them as well as those made anew."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((15, 64))
    said = middles[rng.integers(0, 15, 240)] + 0.9 * rng.standard_normal((240, 64))
    segments = policy.unit(said.astype(np.float32))
    of = np.zeros(0, np.int64)
    for n in range(1, len(segments) + 1):
        nearest = 0 if n == 1 else int(of[int((segments[: n - 1] @ segments[n - 1]).argmax())])
        of = clustering.arranged(segments[:n], np.append(of, nearest), count=-(-n // 8))
    anew = clustering.arranged(segments, np.zeros(240, np.int64), count=30)
    assert clustering.worth(segments, of) >= 0.99 * clustering.worth(segments, anew)
