"""Which cluster does a segment join, and which segments leave? Pure, over float32 arrays of unit vectors [n, 256].

After the online (leader) clustering of sequential k-means: one pass, the nearest centroid takes a segment that is
similar enough, else the segment founds a cluster, up to a number; centroids are running means.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
DIMENSIONS = 256

# One half-life of disuse weighs as much as being used half as often: an hour of conversation.
_HALF_LIFE_SECONDS = 3_600.0
# How much a perfect double of a kept segment loses against one that is like nothing else.
_REDUNDANCY_WEIGHT = 0.5


def projection(dimensions: int) -> Floats:
    """float32 [dimensions, min(dimensions, 256)]: orthonormal columns, the same for ever for the same dimensions."""
    gaussian = np.random.default_rng(256).standard_normal((dimensions, min(dimensions, DIMENSIONS)))
    orthonormal, _ = np.linalg.qr(gaussian)
    return orthonormal.astype(np.float32)


def project(vectors: Floats, onto: Floats) -> Floats:
    """Unit vectors [n, 256]; a projection of this kind keeps cosines up to a small error (Johnson–Lindenstrauss)."""
    return unit(vectors @ onto)


def unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


@dataclass(frozen=True, slots=True)
class Clustering:
    """sums: float32 [c, 256], the sum of each cluster's members (its direction is the centroid); sizes: int [c]."""

    sums: Floats
    sizes: NDArray[np.int64]

    @property
    def centroids(self) -> Floats:
        return unit(self.sums)


def assign(
    clustering: Clustering, segments: Floats, *, per_cluster: int, most: int, join_similarity: float
) -> tuple[Clustering, NDArray[np.int64]]:
    """The clusters after taking in `segments` [n, 256] one by one, and the cluster of each (int [n])."""
    room = len(clustering.sums) + len(segments)
    sums = np.zeros((room, segments.shape[1]), np.float32)
    sizes = np.zeros(room, np.int64)
    count, total = len(clustering.sums), int(clustering.sizes.sum())
    sums[:count], sizes[:count] = clustering.sums, clustering.sizes
    joined = np.empty(len(segments), np.int64)
    for at, segment in enumerate(segments):
        total += 1
        cosines = unit(sums[:count]) @ segment
        nearest = int(cosines.argmax()) if count else -1
        full = count >= min(most, -(-total // per_cluster))
        if nearest < 0 or (cosines[nearest] < join_similarity and not full):
            nearest, count = count, count + 1
        sums[nearest] += segment
        sizes[nearest] += 1
        joined[at] = nearest
    return Clustering(sums[:count], sizes[:count]), joined


def leaving(
    segments: Floats, *, uses: NDArray[np.int64], idle_seconds: NDArray[np.float64], surplus: int
) -> NDArray[np.int64]:
    """The places of `surplus` segments with the least value: long unused, and like one that stays.

    value = (1 + log(1 + uses)) · 2^(-idle / half-life) · (1 - w · cosine to the nearest that stays); the lowest goes
    first, and what is left is compared anew, so of two doubles only one goes for being double.
    """
    if surplus <= 0:
        return np.empty(0, np.int64)
    if surplus >= len(segments):
        return np.arange(len(segments))
    recency = (1 + np.log1p(uses)) * 0.5 ** (idle_seconds / _HALF_LIFE_SECONDS)
    cosines = segments @ segments.T
    np.fill_diagonal(cosines, -1)
    nearest = cosines.argmax(axis=1)
    value = recency * (1 - _REDUNDANCY_WEIGHT * np.clip(cosines.max(axis=1), 0, 1))
    gone: list[int] = []
    while len(gone) < surplus:
        lowest = int(value.argmin())
        value[lowest] = np.inf
        gone.append(lowest)
        # Only those that were most like the one that left are compared anew.
        cosines[:, lowest] = -1
        for alone in np.flatnonzero((nearest == lowest) & np.isfinite(value)):
            nearest[alone] = cosines[alone].argmax()
            likeness = min(1.0, max(0.0, float(cosines[alone, nearest[alone]])))
            value[alone] = recency[alone] * (1 - _REDUNDANCY_WEIGHT * likeness)
    return np.array(gone, np.int64)
