"""From the log to the tiers: cut into segments, embed, cluster, and let go of what has no room.

Three steps, each a task of its own: `consolidate` → `embed` → `evict`. Each claims the operation for a while (lease),
writes rows in short transactions and hands on. A step that dies is taken up by the sweep; every step may run twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import numpy as np

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.ids import ItemId, is_memory, item_key
from memory.domain.operations import Operation, OperationState
from memory.domain.segments import NewSegment, PendingSegment, SegmentVector, cut
from memory.ports.jobs import Clock, JobQueue
from memory.ports.models import QUERY_TEXTS, Embedder, Tokenizer
from memory.ports.storage import Storage, UnitOfWork
from memory.services.attempts import attempt
from memory.services.clusters import Clusters
from memory.services.duplicates import Duplicates, signed
from memory.services.secrets import TenantSecrets, keyed_hash
from memory.services.spaces import TenantSpaces
from memory.services.tasks import CONSOLIDATE, EMBED, EVICT
from memory.tiers.base import Tier

_PAGE = 512
"""Events cut, or segments embedded, in one go: three or four seconds of embedding, then a commit.

Texts of a page are embedded in batches of like length: ten sessions' 2,664 turns make 453 batches, a tenth of them too
small to be efficient; with half the page 503, and a fifth of them.
"""


class Consolidation:
    def __init__(
        self,
        *,
        storage: Storage,
        spaces: TenantSpaces,
        tiers: Sequence[Tier],
        jobs: JobQueue,
        secrets: TenantSecrets,
        clock: Clock,
        lease: timedelta,
        duplicates: Duplicates,
        clusters: Clusters,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage = storage
        self._spaces = spaces
        self._tiers = tiers
        self._jobs = jobs
        self._secrets = secrets
        self._clock = clock
        self._lease = lease
        self._duplicates = duplicates
        self._clusters = clusters
        self._give_way = give_way

    async def consolidate(self, operation_id: str) -> None:
        """Cuts what is new into segments, then hands on to `embed`."""
        await self._step(operation_id, self._cut_all, following=EMBED)

    async def embed(self, operation_id: str) -> None:
        """Gives every segment its vector, then hands on to `evict`."""
        await self._step(operation_id, self._embed_all, following=EVICT)

    async def evict(self, operation_id: str) -> None:
        """Lets the bounded tiers take in and let go; the operation is over unless more has come in meanwhile."""
        await self._step(operation_id, self._settle, following=None)

    async def embed_now(self, tenant_id: str, space: str, items: list[ItemId]) -> list[SegmentVector]:
        """The vectors of a few items at once, for a recall that can't wait for the workers. Nothing is stored."""
        models = self._spaces.loaded(space)
        if models is None:
            return []
        async with self._storage.read() as tx:
            events = await tx.events.by_keys([item_key(item) for item in items if not is_memory(item)])
            memories = await tx.memories.by_keys([item_key(item) for item in items if is_memory(item)])
        texts = [(e.item, e.content) for e in events] + [(m.item, m.text) for m in memories]
        pieces = [
            (item, ordinal, text[span.start : span.end])
            for item, text in texts
            for ordinal, span in enumerate(cut(text, models.tokenizer.spans(text))[: max(1, QUERY_TEXTS // len(items))])
        ]
        found: list[SegmentVector] = []
        for at in range(0, len(pieces), QUERY_TEXTS):
            part = pieces[at : at + QUERY_TEXTS]
            vectors = await models.embedder.embed([piece for _, _, piece in part])
            found += [SegmentVector(i, o, packed(v)) for (i, o, _), v in zip(part, vectors, strict=True)]
        return found

    async def _step(
        self, operation_id: str, work: Callable[[Operation], Awaitable[bool]], *, following: str | None
    ) -> None:
        await asyncio.to_thread(self._give_way)
        async with attempt(self._storage, self._clock, self._lease, operation_id) as operation:
            if operation is not None:
                await self._spaces.refresh(self._storage, operation.tenant_id)
            goes_on = operation is not None and await work(operation)
        if goes_on and following is not None:
            async with self._storage.write() as tx:
                await tx.operations.release(operation_id, None)
            self._jobs.send(following, operation_id)

    async def _cut_all(self, operation: Operation) -> bool:
        secret = await self._secrets.of(operation.tenant_id)
        cut_page = self._cut_memories if operation.session_key is None else self._cut_events
        while await cut_page(operation, secret):
            if not await self._alive(operation, 0):
                return False
        return True

    async def _cut_events(self, operation: Operation, secret: bytes) -> bool:
        key = operation.session_key
        assert key is not None
        async with self._storage.read() as tx:
            session = (await tx.sessions.by_keys([key])).get(key)
            events = await tx.events.unsegmented(key, session.segmented_seq, _PAGE) if session else []
        if not events:
            return False

        models = self._spaces.models(operation.tenant_id)

        def cut_page() -> list[NewSegment]:
            facts = ((e.content, secret, e.item, key, e.seq, e.turn, e.audience) for e in events)
            return [segment for event in facts for segment in _cut(models.tokenizer, *event)]

        segments = await asyncio.to_thread(cut_page)
        async with self._storage.write() as tx:
            await self._spaces.hold(tx, operation.tenant_id, models.embedder.space)
            current = await tx.sessions.locked_by_key(key)
            if current is None:  # purged meanwhile: nothing may come back
                return False
            if session is None or current.redactions != session.redactions:  # what was read may be gone: read it again
                return True
            await tx.segments.add(operation.tenant_id, models.embedder.space, segments, self._clock.now())
            await tx.sessions.mark_segmented(key, events[-1].seq)
        return True

    async def _cut_memories(self, operation: Operation, secret: bytes) -> bool:
        async with self._storage.read() as tx:
            memories = await tx.memories.unsegmented(operation.tenant_id, _PAGE)
        models = self._spaces.models(operation.tenant_id)
        for memory in memories:
            facts = (memory.item, memory.session_key, 0, 0, memory.audience)
            segments = await asyncio.to_thread(_cut, models.tokenizer, memory.text, secret, *facts)
            async with self._storage.write() as tx:
                await self._spaces.hold(tx, operation.tenant_id, models.embedder.space)
                current = await tx.memories.locked(memory.tenant_id, memory.memory_id)
                if current is None or current.version != memory.version:
                    continue
                await tx.segments.remove_items(memory.item)
                await tx.segments.add(operation.tenant_id, models.embedder.space, segments, self._clock.now())
                await tx.memories.mark_segmented(memory)
        return bool(memories)

    async def _embed_all(self, operation: Operation) -> bool:
        embedder = self._spaces.of(operation.tenant_id)
        tenant_id, space = operation.tenant_id, embedder.space
        while True:
            async with self._storage.read() as tx:
                pending = await tx.segments.pending(tenant_id, space, operation.session_key, _PAGE)
                hashes = [segment.content_hash for segment in pending]
                known = await tx.segments.vectors_by_hash(tenant_id, space, hashes)
            if not pending:
                return True
            vectors = await _vectors(embedder, pending, known)
            async with self._storage.write() as tx:
                if not await _still_there(tx, operation):
                    return False
                await tx.segments.set_vectors(vectors, self._clock.now())
                await tx.segments.sign(space, signed(pending, vectors))
                await tx.changes.add(*_embedded(operation, pending))
            if not await self._alive(operation, len({segment.item for segment in pending})):
                return False

    async def _settle(self, operation: Operation) -> bool:
        while operation.session_key is None and await self._duplicates.compare(operation):
            await asyncio.to_thread(self._give_way)
        for tier in self._tiers:
            more = True
            while more:
                more = await tier.absorb(operation.tenant_id, operation.session_key) > 0
                await tier.evict(operation.tenant_id, operation.session_key)
                if more and not await self._alive(operation, 0):
                    return False
        if operation.session_key is not None:
            await self._clusters.settle(operation.session_key)
        async with self._storage.write() as tx:
            if await self._is_done(tx, operation):
                await tx.operations.finish(operation.operation_id, OperationState.SUCCEEDED, self._clock.now())
                return False
            await tx.operations.release(operation.operation_id, None, afresh=True)
        self._jobs.send(CONSOLIDATE, operation.operation_id)
        return False

    async def _is_done(self, tx: UnitOfWork, operation: Operation) -> bool:
        """Asked under the lock that an append takes: what comes in later finds the operation over and asks anew."""
        space, key = self._spaces.of(operation.tenant_id).space, operation.session_key
        if key is None:
            left = bool(await tx.memories.unsegmented(operation.tenant_id, 1))
            left = left or bool(await tx.memories.uncompared(operation.tenant_id, space, 1))
        else:
            session = await tx.sessions.locked_by_key(key)
            left = session is not None and session.segmented_seq < session.last_seq
        return not left and not await tx.segments.pending(operation.tenant_id, space, key, 1)

    async def _alive(self, operation: Operation, done: int) -> bool:
        """After each page: false when the operation was taken away."""
        await asyncio.to_thread(self._give_way)
        async with self._storage.write() as tx:
            return await tx.operations.progress(operation.operation_id, done, self._lease, self._clock.now())


def _cut(
    tokenizer: Tokenizer,
    text: str,
    secret: bytes,
    item: ItemId,
    session_key: int | None,
    seq: int,
    turn: int,
    audience: str,
) -> list[NewSegment]:
    return [
        NewSegment(
            item=item,
            session_key=session_key,
            seq=seq,
            ordinal=ordinal,
            turn=turn,
            audience=audience,
            span=span,
            content_hash=keyed_hash(secret, text[span.start : span.end]),
        )
        for ordinal, span in enumerate(cut(text, tokenizer.spans(text)))
    ]


async def _still_there(tx: UnitOfWork, operation: Operation) -> bool:
    return operation.session_key is None or await tx.sessions.locked_by_key(operation.session_key) is not None


async def _vectors(
    embedder: Embedder, pending: Sequence[PendingSegment], known: dict[bytes, bytes]
) -> dict[int, bytes]:
    """By segment_key; identical texts are embedded once."""
    new = {s.content_hash: s.text for s in pending if s.content_hash not in known}
    embedded = await embedder.embed(list(new.values()))
    known |= {content_hash: packed(vector) for content_hash, vector in zip(new, embedded, strict=True)}
    return {segment.segment_key: known[segment.content_hash] for segment in pending}


def _embedded(operation: Operation, segments: Sequence[PendingSegment]) -> list[NewChange]:
    tenant_id, key = operation.tenant_id, operation.session_key
    if key is not None:
        seqs = [segment.seq for segment in segments]
        return [NewChange(ChangeKind.VECTORS, tenant_id, key, min(seqs), max(seqs))]
    memories = sorted({item_key(segment.item) for segment in segments})
    return [NewChange(ChangeKind.VECTORS, tenant_id, memory_key=memory) for memory in memories]


def packed(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    return vector.astype("<f2").tobytes()
