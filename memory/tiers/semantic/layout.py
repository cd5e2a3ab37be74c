"""Where do centroids lie when they are drawn on paper?"""

from collections.abc import Sequence

import numpy as np

from memory.tiers.semantic.policy import unit


def flat_layout(centroids: Sequence[bytes]) -> list[tuple[float, float]]:
    """The two first principal components of the centroids (float32 bytes), one point each."""
    if not centroids:
        return []
    points = unit(np.stack([np.frombuffer(centroid, "<f4") for centroid in centroids]))
    centred = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[:2].T
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    return [(round(float(x), 4), round(float(y), 4)) for x, y in flat]
