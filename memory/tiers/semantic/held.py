"""What of one session lies in memory, and how is it probed? Centroids first, then the members of the nearest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.domain.principals import Scope
from memory.domain.segments import Cluster
from memory.domain.sessions import Session
from memory.ports.storage import UnitOfWork
from memory.tiers.base import Floats


@dataclass(frozen=True, slots=True)
class Held:
    """centroids: [c, 256]; members: the segments' vectors, float16 [n, d]; of_cluster: int [n].

    As they are stored, members take less room than as float32 in 256 dimensions, and their cosines are exact.

    version: of the space, and of all the sessions that it was made of.
    """

    version: tuple[object, ...]
    audiences: tuple[str, ...]
    centroids: Floats
    items: NDArray[np.int64]
    members: NDArray[np.float16]
    of_cluster: NDArray[np.int64]

    def probe(self, vector: Floats, query: Floats, scope: Scope, probes: int) -> dict[int, float]:
        """The cosine of each member of the nearest visible centroids, by item. `query`: it in 256 dimensions."""
        visible = np.array([audience in scope.audiences for audience in self.audiences], np.bool_)
        near = np.where(visible, self.centroids @ query, -np.inf)
        probed = [at for at in np.argsort(-near)[:probes] if visible[at]]
        chosen = np.flatnonzero(np.isin(self.of_cluster, probed))
        best: dict[int, float] = {}
        cosines = self.members[chosen].astype(np.float32) @ vector
        for item, cosine in zip(self.items[chosen].tolist(), cosines.tolist(), strict=True):
            best[item] = max(best.get(item, -1.0), cosine)
        return best


async def version_of(tx: UnitOfWork, session: Session) -> tuple[object, ...]:
    if not session.inherited:
        return (session.semantic_version,)
    others = await tx.sessions.by_keys({stretch.session_key for stretch in session.lineage.elsewhere})
    versions = sorted((key, other.semantic_version) for key, other in others.items())
    return (session.semantic_version, session.inherited, *versions)


def sums_of(clusters: Sequence[Cluster]) -> Floats:
    """float32 [n, 256], or as many dimensions as there are below; [0, 0] of none."""
    if not clusters:
        return np.zeros((0, 0), np.float32)
    raw = b"".join(cluster.centroid for cluster in clusters)
    return np.frombuffer(raw, "<f4").reshape(len(clusters), -1)
