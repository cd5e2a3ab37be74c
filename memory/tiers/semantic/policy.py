"""Which cluster does a segment join, and how much does it matter? Pure, over float32 arrays of unit vectors [n, 256].

After the online (leader) clustering of sequential k-means: one pass, the nearest centroid takes a segment that is
similar enough, else the segment founds a cluster, up to a number; centroids are running means.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
DIMENSIONS = 256

_LONG = 1_000
"""Characters of a segment of 240 tokens, about."""


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


def importance(characters: NDArray[np.int64]) -> NDArray[np.float64]:
    """0 to 1, from the length of a segment: "Wow, thanks!" answers less than what tells something.

    Half of the longest counts nearly as much as all of it: the logarithm.
    """
    return np.asarray(np.minimum(1.0, np.log1p(characters) / np.log1p(_LONG)), np.float64)
