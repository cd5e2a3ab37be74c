"""The last hundred turns, clustered: 256 dimensions choose the clusters, all dimensions compare their members.

Segments and centroids are rows of the database; each process keeps the sessions it was asked about in memory, under
the session's `semantic_version`. A cluster holds segments of one visibility class only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memory.domain.ids import item_key
from memory.domain.moves import PolicyName
from memory.domain.principals import Scope
from memory.domain.recall import TierName
from memory.domain.segments import Cluster, TierSegment
from memory.domain.sessions import Session
from memory.ports.jobs import Clock
from memory.ports.spaces import Spaces
from memory.ports.storage import Storage, UnitOfWork
from memory.tiers.base import Candidates, Floats, Question, TierStats
from memory.tiers.scan import Words, candidates, matching
from memory.tiers.semantic import policy, room
from memory.tiers.semantic.arranging import Rearrangement, doubts, rearrangement
from memory.tiers.semantic.held import Held, sums_of, version_of
from memory.tiers.semantic.room import Departure
from memory.tiers.semantic.settings import SemanticSettings

_PAGE = 512
"""Segments that are clustered, or compared with each other, in one go."""
_ARRANGED_EACH_TURN = 1_024
"""Segments of a session up to which its clusters are looked at each time (up to 25 ms); above, at compactions."""
_PASSED_BY = 2
"""What is older than so many times the tier's turns has no chance to stay: it is not clustered at all."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where new segments go: `joined` int [n], the place of each one's cluster in `after`; `known` come first there."""

    known: tuple[int, ...]
    after: policy.Clustering
    new: tuple[TierSegment, ...]
    joined: NDArray[np.int64]


class SemanticTier:
    name: ClassVar = TierName.SEMANTIC
    holds: ClassVar = "segments of recent turns, clustered in 256 dimensions"
    bound: ClassVar = "semantic_turns' worth of segments, at most 2,048 centroids a session"

    def __init__(self, *, storage: Storage, spaces: Spaces, settings: SemanticSettings, clock: Clock) -> None:
        self._storage = storage
        self._spaces = spaces
        self._settings = settings
        self._clock = clock
        self._projections: dict[int, Floats] = {}
        self._cached: OrderedDict[int, Held] = OrderedDict()

    async def absorb(self, tenant_id: str, session_key: int | None = None) -> int:
        """Clusters the next segments of the session that it has not seen, a page at a time: 0 when there are none.

        What is much too old to stay is passed by.
        """
        return await _repeated(self._absorbed, tenant_id, session_key)

    async def _absorbed(self, tenant_id: str, session_key: int) -> int | None:
        """None: somebody changed the clusters meanwhile."""
        space = self._spaces.of(tenant_id).space
        async with self._storage.read() as tx:
            session = (await tx.sessions.by_keys([session_key])).get(session_key)
            new = await tx.segments.newest(session_key, space, _PAGE) if session else []
            known = await tx.clusters.of_session(session_key) if new else []
        if session is None or not new:
            return 0
        oldest = session.turns - _PASSED_BY * session.semantic_turns
        plans, free = [], self._settings.max_clusters - len(known)
        for audience in sorted({segment.audience for segment in new}):
            clusters = [cluster for cluster in known if cluster.audience == audience]
            joining = [s for s in new if s.audience == audience and s.turn > oldest]
            plan = await asyncio.to_thread(self._planned, clusters, joining, free)
            free -= len(plan.after.sums) - len(clusters)
            plans.append((audience, plan))
        async with self._storage.write() as tx:
            if not await _still_in(tx, tenant_id, space):
                return 0
            if not await self._unchanged(tx, session):
                return None
            passed = [segment for segment in new if segment.turn <= oldest]
            await tx.segments.hold({segment.segment_key: None for segment in passed})
            await tx.moves.add(tenant_id, room.passed_by(session_key, passed), self._clock.now())
            for audience, plan in plans:
                await self._join(tx, session, audience, plan)
            await tx.sessions.bump_semantic(session_key)
        return len(new)

    async def recall(self, question: Question) -> Candidates:
        """Probes the nearest centroids of each session in scope, then compares their members."""
        scope = question.scope
        vector = await question.vector() if question.space == self._spaces.of(scope.tenant_id).space else None
        async with self._storage.read() as tx:
            keys, limit = scope.session_keys, self._settings.cached_sessions
            if keys is not None:
                keys = keys[-limit:]  # each beyond what stays in memory costs queries; long-term answers for the rest
            else:
                newest = await tx.sessions.page(scope.tenant_id, after_key=None, limit=limit)
                keys = tuple(session.session_key for session in newest)
            sessions = await tx.sessions.by_keys(keys)
            best: dict[int, float] = {}
            for session in sessions.values():
                best |= self._probe(await self._held(tx, session), scope, vector)
            wanted = sorted(best, key=lambda item: best[item], reverse=True)[: max(4 * question.wanted, 200)]
            events = await tx.events.by_keys([item_key(item) for item in wanted])
            owners = await tx.sessions.by_keys({event.session_key for event in events} - sessions.keys())
        ids = {key: session.session_id for key, session in (owners | sessions).items()}
        events = matching(events, scope, question.conditions, ids)
        dense = np.array([best[event.item] for event in events], np.float32)
        return candidates(question.text, events, dense, Words.none(len(events)))

    async def evict(self, tenant_id: str, session_key: int | None = None) -> int:
        """LRU and similarity: beyond `semantic_turns`' worth of segments, the least valuable leave."""
        return await _repeated(self._evicted, tenant_id, session_key)

    async def _evicted(self, tenant_id: str, session_key: int) -> int | None:
        """None: somebody changed the clusters meanwhile."""
        space = self._spaces.of(tenant_id).space
        async with self._storage.read() as tx:
            session = (await tx.sessions.by_keys([session_key])).get(session_key)
            if session is None:
                return 0
            held = await tx.segments.held(session_key, space)
            clusters = await tx.clusters.of_session(session_key)
            capacity = await self._capacity(tx, session)
        gone = await asyncio.to_thread(self._departures, session, held, capacity)
        if not gone:
            return 0
        changed = await asyncio.to_thread(self._without, clusters, [one.segment for one in gone])
        async with self._storage.write() as tx:
            if not await _still_in(tx, tenant_id, space):
                return 0
            if not await self._unchanged(tx, session):
                return None
            await tx.segments.hold({one.segment.segment_key: None for one in gone})
            await tx.moves.add(tenant_id, room.leaves(session_key, gone), self._clock.now())
            await tx.clusters.set({key: value for key, value in changed.items() if value[1] > 0})
            await tx.clusters.remove([key for key, value in changed.items() if value[1] <= 0])
            await tx.sessions.bump_semantic(session_key)
        return len(gone)

    async def arrange(self, session_key: int, *, compacted: bool) -> int:
        """Splits, merges and moves until the clusters are as good as made anew; how many segments changed theirs.

        In one transaction. A session with very many segments waits until its window is `compacted`.
        """
        while True:
            async with self._storage.read() as tx:
                session = (await tx.sessions.by_keys([session_key])).get(session_key)
                if session is None:
                    return 0
                space = self._space_of(session)
                held = await tx.segments.held(session_key, space)
                clusters = await tx.clusters.of_session(session_key)
            if len(held) > _ARRANGED_EACH_TURN and not compacted:
                return 0
            found = await asyncio.to_thread(rearrangement, clusters, held, self._projected, self._settings)
            if not found:
                return 0
            async with self._storage.write() as tx:
                if not await _still_in(tx, session.tenant_id, space):
                    return 0
                if await self._unchanged(tx, session):
                    return await self._write(tx, session_key, found)

    async def preview(
        self, tx: UnitOfWork, session: Session, policy_name: PolicyName, capacity: int | None
    ) -> tuple[list[TierSegment], int, list[Departure]]:
        """What is held of the session's own, how many segments it may be, and which would go now; nothing changes."""
        held = await tx.segments.held(session.session_key, self._space_of(session))
        most = await self._capacity(tx, session) if capacity is None else capacity
        return held, most, await asyncio.to_thread(self._departures, session, held, most, policy_name)

    async def forget(self, tenant_id: str, session_keys: Collection[int] = ()) -> dict[str, int]:
        for session_key in session_keys:
            self._cached.pop(session_key, None)
        return {}

    async def stats(self, tenant_id: str) -> TierStats:
        async with self._storage.read() as tx:
            counts = await tx.segments.counts(tenant_id)
            clusters = await tx.clusters.count(tenant_id)
        size = counts["held"] * self._spaces.of(tenant_id).dimensions * 2
        return TierStats(
            counts["held"], size, counts["pending"], {"clusters": clusters, "segments": counts["segments"]}
        )

    async def verify(self, tenant_id: str) -> list[str]:
        """Of the newest sessions, without their centroids: all of that is an operation of minutes."""
        async with self._storage.read() as tx:
            newest = await tx.sessions.page(tenant_id, after_key=None, limit=self._settings.cached_sessions)
        return await self.differences(newest, centroids=False)

    async def differences(self, sessions: Sequence[Session], *, centroids: bool = True) -> list[str]:
        """What is wrong with the clusters of these sessions, in words."""
        problems = []
        async with self._storage.read() as tx:
            for session in sessions:
                space = self._space_of(session)
                if await tx.spaces.of(session.tenant_id) not in (None, space):
                    continue  # it has moved to another model, and this process has not yet
                clusters = await tx.clusters.of_session(session.session_key)
                held = await tx.segments.held(session.session_key, space)
                found = await asyncio.to_thread(doubts, clusters, held, self._projected if centroids else None)
                problems += [f"session '{session.session_id}': {what} differ from their members" for what in found]
        return problems

    async def recluster(self, tenant_id: str, session_key: int) -> None:
        """Makes a session's clusters anew from its vectors. Meanwhile the other tiers answer for what is missing."""
        async with self._storage.write() as tx:
            if await tx.sessions.locked_by_key(session_key) is None:
                return
            await tx.segments.unsee(session_key, self._spaces.of(tenant_id).space)
            await tx.clusters.remove([cluster.cluster_key for cluster in await tx.clusters.of_session(session_key)])
            await tx.sessions.bump_semantic(session_key)
        while await self.absorb(tenant_id, session_key):
            pass
        await self.evict(tenant_id, session_key)
        await self.arrange(session_key, compacted=True)

    async def _write(self, tx: UnitOfWork, session_key: int, found: Rearrangement) -> int:
        if await tx.sessions.locked_by_key(session_key) is None:  # purged meanwhile: nothing may come back
            return 0
        moved: dict[int, int | None] = dict(found.moved)
        for new in found.founded:
            key = await tx.clusters.add(session_key, new.audience, new.centroid, len(new.segment_keys))
            moved |= dict.fromkeys(new.segment_keys, key)
        await tx.segments.hold(moved)
        await tx.clusters.set(found.changed)
        await tx.clusters.remove(found.gone)
        await tx.sessions.bump_semantic(session_key)
        return len(moved)

    async def _unchanged(self, tx: UnitOfWork, session: Session) -> bool:
        """Whether what was planned without a lock still holds; nobody changes it from here on."""
        current = await tx.sessions.locked_by_key(session.session_key)
        return current is None or current.semantic_version == session.semantic_version

    def _planned(self, known: Sequence[Cluster], new: Sequence[TierSegment], free: int) -> "_Plan":
        """`free`: clusters that the session may have more. A visibility class without any gets one all the same."""
        sums, segments = sums_of(known), self._projected([segment.vector for segment in new])
        sums, segments = sums if known else segments[:0], segments if new else sums[:0]
        after, joined = policy.assign(
            policy.Clustering(sums, np.array([c.size for c in known], np.int64)),
            segments,
            per_cluster=self._settings.segments_per_cluster,
            most=max(1, len(known) + free),
            join_similarity=self._settings.join_similarity,
        )
        return _Plan(tuple(cluster.cluster_key for cluster in known), after, tuple(new), joined)

    async def _capacity(self, tx: UnitOfWork, session: Session) -> int:
        """`semantic_turns` turns' worth: as many segments as the newest turns have, held or not.

        And never more than the clusters are for: agents that talk among themselves make no turns.
        """
        oldest = session.turns - session.semantic_turns
        worth = await tx.segments.since_turn(session.session_key, self._space_of(session), oldest)
        return min(worth, self._settings.segments_per_cluster * self._settings.max_clusters)

    async def _join(self, tx: UnitOfWork, session: Session, audience: str, plan: "_Plan") -> None:
        session_key = session.session_key
        if await tx.sessions.locked_by_key(session_key) is None:  # purged meanwhile: nothing may come back
            return
        after, known = plan.after, len(plan.known)
        keys = list(plan.known)
        keys += [
            await tx.clusters.add(session_key, audience, after.sums[at].tobytes(), int(after.sizes[at]))
            for at in range(known, len(after.sums))
        ]
        touched = {int(at) for at in plan.joined if at < known}
        await tx.clusters.set({keys[at]: (after.sums[at].tobytes(), int(after.sizes[at])) for at in touched})
        joined = [keys[int(at)] for at in plan.joined]
        await tx.segments.hold({s.segment_key: key for s, key in zip(plan.new, joined, strict=True)})
        moves = room.joins(session_key, audience, plan.new, joined, max(plan.known, default=0))
        await tx.moves.add(session.tenant_id, moves, self._clock.now())

    def _without(self, clusters: Sequence[Cluster], gone: Sequence[TierSegment]) -> dict[int, tuple[bytes, int]]:
        """The sums and sizes of the clusters that lose members."""
        by_key = {cluster.cluster_key: cluster for cluster in clusters}
        changed: dict[int, tuple[bytes, int]] = {}
        vectors = self._projected([segment.vector for segment in gone])
        for segment, vector in zip(gone, vectors, strict=True):
            key = segment.cluster_key or 0
            before, size = changed.get(key) or (by_key[key].centroid, by_key[key].size)
            changed[key] = ((np.frombuffer(before, "<f4") - vector).tobytes(), size - 1)
        return changed

    async def _held(self, tx: UnitOfWork, session: Session) -> Held:
        cached = self._cached.get(session.session_key)
        version = (self._space_of(session), *await version_of(tx, session))
        if cached is None or cached.version != version:
            clusters, segments = await self.holdings(tx, session)
            cached = self._arranged(version, clusters, segments)
            self._cached[session.session_key] = cached
        self._cached.move_to_end(session.session_key)
        while len(self._cached) > self._settings.cached_sessions:
            self._cached.popitem(last=False)
        return cached

    async def holdings(self, tx: UnitOfWork, session: Session) -> tuple[list[Cluster], list[TierSegment]]:
        """What is held of the session: of its own, and of what a fork inherited.

        A cluster of another session is as the fork sees it: with those of its members that lie before the fork. One
        without members is of another space: the tenant has moved there, and this process has not yet.
        """
        segments = await tx.segments.held(session.session_key, self._space_of(session))
        known = {segment.cluster_key for segment in segments}
        clusters = [c for c in await tx.clusters.of_session(session.session_key) if c.cluster_key in known]
        inherited = await tx.segments.held_elsewhere(session, self._space_of(session))
        if inherited:
            clusters += await asyncio.to_thread(self._as_seen, session.session_key, inherited)
        return clusters, segments + inherited

    def _as_seen(self, session_key: int, members: Sequence[TierSegment]) -> list[Cluster]:
        vectors = self._projected([segment.vector for segment in members])
        of_cluster: dict[int, list[int]] = {}
        for at, segment in enumerate(members):
            of_cluster.setdefault(segment.cluster_key or 0, []).append(at)
        return [
            Cluster(key, session_key, members[places[0]].audience, vectors[places].sum(axis=0).tobytes(), len(places))
            for key, places in of_cluster.items()
        ]

    def _arranged(
        self, version: tuple[object, ...], clusters: Sequence[Cluster], segments: Sequence[TierSegment]
    ) -> Held:
        place = {cluster.cluster_key: at for at, cluster in enumerate(clusters)}
        return Held(
            version=version,
            audiences=tuple(cluster.audience for cluster in clusters),
            centroids=policy.unit(sums_of(clusters)),
            items=np.array([segment.item for segment in segments], np.int64),
            members=_stored([segment.vector for segment in segments]),
            of_cluster=np.array([place.get(segment.cluster_key or 0, -1) for segment in segments], np.int64),
        )

    def _probe(self, held: Held, scope: Scope, vector: Floats | None) -> dict[int, float]:
        if vector is None or not len(held.centroids):
            return {}
        query = policy.project(vector[None, :], self._onto(len(vector)))[0]
        return held.probe(vector, query, scope, self._settings.probes)

    def _departures(
        self,
        session: Session,
        held: Sequence[TierSegment],
        capacity: int,
        policy_name: PolicyName = PolicyName.LRU_SIMILARITY,
    ) -> list[Departure]:
        if len(held) <= capacity:
            return []
        vectors = self._projected([segment.vector for segment in held])
        return room.departures(held, vectors, last_seq=session.last_seq, capacity=capacity, policy=policy_name)

    def _projected(self, vectors: Sequence[bytes]) -> Floats:
        if not vectors:
            return np.zeros((0, 0), np.float32)
        stored = _stored(vectors)
        return policy.project(stored.astype(np.float32), self._onto(stored.shape[1]))

    def _onto(self, dimensions: int) -> Floats:
        if dimensions not in self._projections:
            self._projections[dimensions] = policy.projection(dimensions)
        return self._projections[dimensions]

    def _space_of(self, session: Session) -> str:
        return self._spaces.of(session.tenant_id).space


async def _repeated(work: Callable[[str, int], Awaitable[int | None]], tenant_id: str, session_key: int | None) -> int:
    """Until nobody came between. Never within the unit of work that noticed: the next one would wait for it."""
    if session_key is None:
        return 0
    while (done := await work(tenant_id, session_key)) is None:
        pass
    return done


async def _still_in(tx: UnitOfWork, tenant_id: str, space: str) -> bool:
    """Whether the tenant is in this space, and stays there until the unit of work ends."""
    return await tx.spaces.of(tenant_id, held=True) in (None, space)


def _stored(vectors: Sequence[bytes]) -> NDArray[np.float16]:
    return np.frombuffer(b"".join(vectors), "<f2").reshape(len(vectors), -1) if vectors else np.zeros((0, 0), "<f2")
