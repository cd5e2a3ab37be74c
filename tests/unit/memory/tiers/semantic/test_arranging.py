"""Which rows change when clusters are arranged anew, and which do not?"""

import numpy as np

from memory.domain.segments import Cluster, TierSegment
from memory.tiers.semantic.arranging import doubts, rearrangement
from memory.tiers.semantic.settings import SemanticSettings

SETTINGS = SemanticSettings(segments_per_cluster=4, max_clusters=8)
WIDTH = 8


def projected(vectors):
    return np.array([np.frombuffer(vector, "<f4") for vector in vectors], np.float32).reshape(len(vectors), WIDTH)


def axis(at):
    return np.eye(1, WIDTH, at, dtype=np.float32)[0]


def segment(key, at, cluster, audience="session"):
    return TierSegment(key, 2 * key, key, key, audience, axis(at).tobytes(), cluster, 0, 0.0, key, 100)


def cluster(key, *axes, audience="session"):
    return Cluster(key, 1, audience, sum((axis(at) for at in axes), np.zeros(WIDTH, np.float32)).tobytes(), len(axes))


def of_two_subjects(*clusters):
    """Segments 1 to 4 of one subject, 5 to 8 of another, in these clusters."""
    return [segment(key, (key - 1) // 4, of) for key, of in zip(range(1, 9), clusters, strict=True)]


def test_what_is_as_it_should_be_stays_unwritten():
    held = of_two_subjects(3, 3, 3, 3, 5, 5, 5, 5)
    assert not rearrangement([cluster(3, 0, 0, 0, 0), cluster(5, 1, 1, 1, 1)], held, projected, SETTINGS)
    assert not rearrangement([], [], projected, SETTINGS)


def test_a_stray_goes_home_and_only_the_two_clusters_it_touches_are_written():
    held = of_two_subjects(3, 3, 3, 5, 5, 5, 5, 5) + [segment(9 + n, 2, 7) for n in range(4)]
    known = [cluster(3, 0, 0, 0), cluster(5, 0, 1, 1, 1, 1), cluster(7, 2, 2, 2, 2)]
    found = rearrangement(known, held, projected, SETTINGS)
    assert found.moved == {4: 3}
    assert found.changed == {3: (cluster(3, *[0] * 4).centroid, 4), 5: (cluster(5, *[1] * 4).centroid, 4)}
    assert (found.founded, found.gone) == ([], [])


def test_two_subjects_in_one_cluster_are_split_and_the_new_one_is_founded():
    found = rearrangement([cluster(3, *[0] * 4, *[1] * 4)], of_two_subjects(*[3] * 8), projected, SETTINGS)
    ((audience, centroid, keys),) = [(f.audience, f.centroid, set(f.segment_keys)) for f in found.founded]
    assert audience == "session"
    assert keys in ({1, 2, 3, 4}, {5, 6, 7, 8})
    assert centroid in [cluster(0, *[at] * 4).centroid for at in (0, 1)]
    assert found.moved == {}
    assert found.changed[3][1] == 4


def test_a_subject_in_two_clusters_is_merged_and_what_is_left_empty_goes():
    held = of_two_subjects(3, 3, 3, 4, 5, 5, 5, 5)
    known = [cluster(3, 0, 0, 0), cluster(4, 0), cluster(5, 1, 1, 1, 1), cluster(9), cluster(10, audience="private:a")]
    found = rearrangement(known, held, projected, SETTINGS)
    assert found.moved == {4: 3}
    assert sorted(found.gone) == [4, 9, 10]


def test_the_same_text_of_two_classes_never_shares_a_cluster():
    held = [segment(n, 0, 3) for n in range(1, 5)] + [segment(n, 0, None, "private:ann") for n in range(5, 9)]
    found = rearrangement([cluster(3, 0, 0, 0, 0)], held, projected, SETTINGS)
    assert [(f.audience, f.segment_keys) for f in found.founded] == [("private:ann", (5, 6, 7, 8))]
    assert (found.moved, found.changed) == ({}, {})


def test_a_sum_that_has_drifted_is_written_anew():
    held = of_two_subjects(3, 3, 3, 3, 5, 5, 5, 5)
    drifted = Cluster(3, 1, "session", (4.02 * axis(0)).astype(np.float32).tobytes(), 4)
    known = [drifted, cluster(5, 1, 1, 1, 1)]
    assert doubts(known, held, projected) == ["centroids"]
    found = rearrangement(known, held, projected, SETTINGS)
    assert found.changed == {3: (cluster(3, *[0] * 4).centroid, 4)}


def test_sizes_that_are_wrong_and_members_of_nothing_are_named():
    held = of_two_subjects(3, 3, 3, 3, 8, 8, 8, 8)
    assert doubts([cluster(3, 0, 0, 0, 0), cluster(5)], held, projected) == ["cluster sizes"]
    assert doubts([cluster(3, 0, 0, 0, 0), cluster(8, 1, 1, 1, 1)], held, projected) == []
    assert doubts([], [], projected) == []
