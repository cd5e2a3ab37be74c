"""What has to be written when the clusters of a session are arranged anew? Between the pure policy and the rows."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from memory.domain.segments import Cluster, TierSegment
from memory.tiers.semantic.clustering import Floats, arranged, counts, sums
from memory.tiers.semantic.settings import SemanticSettings

_OFF = 1e-3
"""A stored sum of vectors that differs by so much in any dimension is written anew: additions and subtractions over a
session's life round, and clusters must not drift by it."""


@dataclass(frozen=True, slots=True)
class Founded:
    """A cluster that is not stored yet, with the keys of its segments."""

    audience: str
    centroid: bytes
    segment_keys: tuple[int, ...]


@dataclass(slots=True)
class Rearrangement:
    """changed: sum and size by cluster_key; moved: segment_key → cluster_key; gone: clusters without members."""

    changed: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)
    founded: list[Founded] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.changed or self.moved or self.founded or self.gone)


def rearrangement(
    clusters: Sequence[Cluster],
    held: Sequence[TierSegment],
    projected: Callable[[Sequence[bytes]], Floats],
    settings: SemanticSettings,
) -> Rearrangement:
    """Of all that one session holds; visibility classes are arranged apart. Empty: all is as it should be."""
    found = Rearrangement()
    sizes = Counter(segment.audience for segment in held)
    audiences = sorted(sizes)
    each = counts([sizes[a] for a in audiences], per_cluster=settings.segments_per_cluster, most=settings.max_clusters)
    for audience, count in zip(audiences, each, strict=True):
        members = [segment for segment in held if segment.audience == audience]
        known = [cluster for cluster in clusters if cluster.audience == audience]
        _arrange(found, audience, known, members, projected([segment.vector for segment in members]), count)
    found.gone += [cluster.cluster_key for cluster in clusters if cluster.audience not in sizes]
    return found


def doubts(
    clusters: Sequence[Cluster], held: Sequence[TierSegment], projected: Callable[[Sequence[bytes]], Floats] | None
) -> list[str]:
    """What the rows of clusters say that their members do not. `projected` None: centroids are not looked at."""
    found = []
    sizes = Counter(segment.cluster_key for segment in held)
    if sizes != Counter({cluster.cluster_key: cluster.size for cluster in clusters}):
        found.append("cluster sizes")
    if projected is None:
        return found
    stored = {cluster.cluster_key: cluster.centroid for cluster in clusters}
    of = np.array([segment.cluster_key or 0 for segment in held], np.int64)
    labels, totals = sums(projected([segment.vector for segment in held]), of)
    known = [(stored[label], total) for label, total in zip(labels.tolist(), totals, strict=True) if label in stored]
    if any(_differs(centroid, total) for centroid, total in known):
        found.append("centroids")
    return found


def _arrange(
    found: Rearrangement,
    audience: str,
    known: Sequence[Cluster],
    members: Sequence[TierSegment],
    vectors: Floats,
    count: int,
) -> None:
    """Labels are the keys of clusters; those above all known ones are not stored yet."""
    before = np.array([segment.cluster_key or 0 for segment in members], np.int64)
    stored = {cluster.cluster_key: cluster for cluster in known}
    after = arranged(vectors, before, count=count)
    labels, held = sums(vectors, after)
    for label, total in zip(labels.tolist(), held, strict=True):
        keys = tuple(members[at].segment_key for at in np.flatnonzero(after == label).tolist())
        if label not in stored:
            found.founded.append(Founded(audience, total.tobytes(), keys))
        elif len(keys) != stored[label].size or _differs(stored[label].centroid, total):
            found.changed[label] = (total.tobytes(), len(keys))
    found.moved.update(
        {
            segment.segment_key: label
            for segment, label in zip(members, after.tolist(), strict=True)
            if label != segment.cluster_key and label in stored
        }
    )
    found.gone += sorted(stored.keys() - set(labels.tolist()))


def _differs(stored: bytes, total: Floats) -> bool:
    return bool(np.abs(np.frombuffer(stored, "<f4") - total).max() > _OFF)
