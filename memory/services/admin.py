"""What does an operator see? Read-only numbers about tiers, sessions and jobs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memory.domain.errors import TierUnavailable
from memory.domain.operations import UNFINISHED, Operation, OperationState
from memory.domain.principals import SHARED, Principal, Scope
from memory.domain.recall import TierName
from memory.ports.kv import KVStore
from memory.ports.storage import Storage
from memory.services import access
from memory.services.activity import Activity
from memory.services.clusters import Clusters
from memory.services.usage import Usage
from memory.tiers.base import Tier, TierStats
from memory.tiers.hot import policy
from memory.tiers.hot.tier import HotTier
from memory.tiers.semantic.layout import flat_layout
from memory.tiers.semantic.tier import SemanticTier

_JOBS = 100


@dataclass(frozen=True, slots=True)
class Jobs:
    """`counts`: of all, by state; `newest`: of those that were asked for."""

    counts: dict[str, int]
    newest: list[Operation]


class Admin:
    def __init__(
        self,
        *,
        storage: Storage,
        tiers: Sequence[Tier],
        hot: HotTier,
        kv: KVStore,
        semantic: SemanticTier,
        clusters: Clusters,
        usage: Usage,
        activity: Activity,
    ) -> None:
        self._storage = storage
        self._usage = usage
        self._activity = activity
        self._tiers = tiers
        self._hot = hot
        self._kv = kv
        self._semantic = semantic
        self._clusters = clusters

    async def overview(self, principal: Principal) -> dict[str, Any]:
        """Numbers of the caller's tenant; hit ratios and rates of this process. Nothing tells of other tenants: the
        size of the database is there for its only one.

        A hit ratio is the share of results that a tier was the fastest to hold.
        """
        async with self._storage.read() as tx:
            alone = {tenant.tenant_id for tenant in await tx.tenants.page(after=None, limit=2)} <= {principal.tenant_id}
            totals = await tx.sessions.totals(principal.tenant_id)
            memories = await tx.memories.count(principal.tenant_id)
            operations = await tx.operations.counts(principal.tenant_id)
        tiers = await self.tiers(principal)
        shown = max(1, self._usage.by_tier.total())
        rates = self._activity.per_second("events", "recalls")
        return {
            "tenants": 1,
            **totals,
            "memories": memories,
            "tiers": tiers,
            "bytes_by_tier": {tier["tier"]: tier["bytes"] for tier in tiers},
            "hit_ratios": {name: round(self._usage.by_tier[name] / shown, 4) for name in TierName},
            "rates": {f"{name}_per_second": rate for name, rate in rates.items()},
            "queue_depth": sum(operations[state] for state in UNFINISHED),
            "queue": {state: operations[state] for state in UNFINISHED},
            "operations": operations,
            "database_bytes": await self._storage.bytes_used() if alone else None,
        }

    async def tiers(self, principal: Principal) -> list[dict[str, Any]]:
        return [
            {"tier": tier.name, "holds": tier.holds, "bound": tier.bound, **await _holdings(tier, principal.tenant_id)}
            for tier in self._tiers
        ]

    async def session_tiers(self, principal: Principal, session_id: str) -> dict[str, Any]:
        """Raises NotFound. Clusters of other agents' private events are not shown; sentences are of shared events, and
        only for who may read the session."""
        audiences = Scope.of(principal, None).audiences
        async with self._storage.read() as tx:
            session = await access.any_session(tx, principal, session_id)
            window = await self._hot.window(tx, session)
            clusters, held = await self._semantic.holdings(tx, session)
            reads = await access.reads(tx, principal, session)
        clusters = [cluster for cluster in clusters if cluster.audience in audiences]
        held = [segment for segment in held if segment.audience in audiences]
        about = await self._clusters.about(held if reads else [])
        kv = (await self._kv.report(principal.tenant_id, session_id)).session
        places = flat_layout([cluster.centroid for cluster in clusters])
        tokens = sum(part.tokens for part in window)
        return {
            "session_id": session_id,
            "hot": {
                "window_tokens": session.window_tokens,
                "tokens": tokens,
                "blocks": policy.blocks(tokens),
                "ranges": [asdict(part) for part in window],
                "kv": None if kv is None else asdict(kv),
            },
            "semantic": {
                "turns": session.semantic_turns,
                "segments": len(held),
                "summary": [asdict(sentence) for sentence in about.session],
                "clusters": [
                    {
                        "cluster": cluster.cluster_key,
                        "size": cluster.size,
                        "private": cluster.audience != SHARED,
                        "x": x,
                        "y": y,
                        "sentences": [asdict(sentence) for sentence in about.clusters.get(cluster.cluster_key, ())],
                        "seqs": sorted({s.seq for s in held if s.cluster_key == cluster.cluster_key}),
                    }
                    for cluster, (x, y) in zip(clusters, places, strict=True)
                ],
            },
            "longterm": {"events": session.event_count, "indexed_seq": session.segmented_seq},
        }

    async def jobs(
        self,
        principal: Principal,
        states: Sequence[OperationState] | None = None,
        *,
        after_id: str | None = None,
        limit: int = _JOBS,
    ) -> Jobs:
        """`states`: of these alone; `after_id`: those that are older."""
        async with self._storage.read() as tx:
            counts = await tx.operations.counts(principal.tenant_id)
            reach = principal.reach if principal.limited else None  # operators see that it is done
            newest = await tx.operations.page(
                principal.tenant_id, states=states, after_id=after_id, limit=limit, reach=reach
            )
        return Jobs(counts, newest)


async def _holdings(tier: Tier, tenant_id: str) -> dict[str, Any]:
    """What it holds, and what is wrong with that: nothing can be said of an index that is being built."""
    try:
        return {**asdict(await tier.stats(tenant_id)), "problems": await tier.verify(tenant_id)}
    except TierUnavailable as error:
        return {**asdict(TierStats(0, 0)), "problems": [error.detail]}
