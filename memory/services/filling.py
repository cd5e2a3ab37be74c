"""How are a tenant's texts embedded in another space, so that a kill costs a page and a purge leaves nothing behind?

A page of items at a time: read with their texts, cut and embedded without a lock, then written under the locks of their
sessions and memories, with the operation's progress and the place that was reached.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.ids import ItemId, is_memory, item_key
from memory.domain.operations import Operation
from memory.domain.segments import NewSegment, Unfilled, cut
from memory.ports.jobs import Clock
from memory.ports.models import Models
from memory.ports.storage import Storage, UnitOfWork
from memory.services.consolidation import packed
from memory.services.duplicates import signatures_of
from memory.services.secrets import TenantSecrets, keyed_hash

_PAGE = 256
"""Items embedded between two commits: what a kill costs, and for how long a commit locks their sessions."""

_Filled = dict[ItemId, list[tuple[NewSegment, bytes]]]
"""Segments with their vectors, by item."""


class TakenAway(Exception):
    """The operation was cancelled meanwhile."""


class Filling:
    def __init__(self, storage: Storage, secrets: TenantSecrets, clock: Clock, lease: timedelta) -> None:
        self._storage = storage
        self._secrets = secrets
        self._clock = clock
        self._lease = lease

    async def fill(self, operation: Operation, models: Models, after: int) -> int | None:
        """Up to which place the models' space is filled now; None: it has all that the others have.

        Raises TakenAway: then nothing was written.
        """
        tenant_id, space = operation.tenant_id, models.embedder.space
        async with self._storage.read() as tx:
            page = await tx.spaces.unfilled(tenant_id, space, after, _PAGE)
            texts = await _texts(tx, page)
        if not page:
            return None
        made = await self._made(tenant_id, models, page, texts)
        async with self._storage.write() as tx:
            await _lock(tx, page)
            # Under the locks: what was purged meanwhile is not there, what was cut anew has another key, for later.
            current = {one.segment_key: one for one in await tx.spaces.unfilled(tenant_id, space, after, _PAGE)}
            left = [current[one.segment_key] for one in page if one.segment_key in current]
            await self._write(tx, tenant_id, space, made, left)
            # What came late may have pushed the end of the page out of this look: it comes again.
            reached = page[-1].segment_key if len(current) < _PAGE else max(current)
            await self._note(tx, operation, len({one.item for one in left}), reached)
        return reached

    async def _made(
        self, tenant_id: str, models: Models, page: Sequence[Unfilled], texts: dict[ItemId, str]
    ) -> _Filled:
        """Identical texts are embedded once."""
        secret = await self._secrets.of(tenant_id)
        pieces = await asyncio.to_thread(_cut, models, secret, page, texts)
        async with self._storage.read() as tx:
            hashes = [segment.content_hash for segment, _ in pieces]
            known = await tx.segments.vectors_by_hash(tenant_id, models.embedder.space, hashes)
        new = {segment.content_hash: text for segment, text in pieces if segment.content_hash not in known}
        if new:
            vectors = await models.embedder.embed(list(new.values()))
            known |= {digest: packed(vector) for digest, vector in zip(new, vectors, strict=True)}
        found: _Filled = {}
        for segment, _ in pieces:
            found.setdefault(segment.item, []).append((segment, known[segment.content_hash]))
        return found

    async def _write(
        self, tx: UnitOfWork, tenant_id: str, space: str, made: _Filled, items: Sequence[Unfilled]
    ) -> None:
        rows = [(_placed(segment, one), vector) for one in items for segment, vector in made.get(one.item, ())]
        segments, vectors = [segment for segment, _ in rows], [vector for _, vector in rows]
        await tx.spaces.fill(tenant_id, space, segments, vectors, self._clock.now())
        first = {s.item: vector for s, vector in rows if is_memory(s.item) and s.ordinal == 0}
        await tx.segments.sign(space, signatures_of(first))
        if await tx.spaces.of(tenant_id) == space:  # it was moved before: indexes wait for these vectors
            await tx.changes.add(*(_vectors_of(tenant_id, one) for one in items))

    async def _note(self, tx: UnitOfWork, operation: Operation, done: int, reached: int) -> None:
        known = await tx.operations.by_id(operation.operation_id)
        now = self._clock.now()
        if known is None or not await tx.operations.progress(operation.operation_id, done, self._lease, now):
            raise TakenAway
        await tx.operations.note(operation.operation_id, noted(known) | {"after": reached})


def noted(operation: Operation) -> dict[str, Any]:
    """What an unfinished `reembed` remembers: from, to, after (the place), counted, words."""
    return operation.result or {}


async def _texts(tx: UnitOfWork, page: Sequence[Unfilled]) -> dict[ItemId, str]:
    events = await tx.events.by_keys([item_key(one.item) for one in page if not is_memory(one.item)])
    memories = await tx.memories.by_keys([item_key(one.item) for one in page if is_memory(one.item)])
    return {event.item: event.content for event in events} | {memory.item: memory.text for memory in memories}


async def _lock(tx: UnitOfWork, page: Sequence[Unfilled]) -> None:
    """Whoever purges or edits one of them waits, or is waited for."""
    keys = {one.session_key for one in page if one.session_key is not None}
    sessions = await tx.sessions.by_keys(keys)
    await tx.sessions.all_locked([(session.tenant_id, session.session_id) for session in sessions.values()])
    await tx.memories.locked_keys([item_key(one.item) for one in page if is_memory(one.item)])


def _cut(
    models: Models, secret: bytes, page: Sequence[Unfilled], texts: dict[ItemId, str]
) -> list[tuple[NewSegment, str]]:
    """The segments of the items with their texts; a model has its own tokens, so its own borders."""
    found = []
    for one in {one.item: one for one in page}.values():
        text = texts.get(one.item, "")
        for ordinal, span in enumerate(cut(text, models.tokenizer.spans(text))):
            piece = text[span.start : span.end]
            segment = NewSegment(
                item=one.item,
                session_key=one.session_key,
                seq=one.seq,
                ordinal=ordinal,
                turn=one.turn,
                audience=one.audience,
                span=span,
                content_hash=keyed_hash(secret, piece),
            )
            found.append((segment, piece))
    return found


def _placed(segment: NewSegment, one: Unfilled) -> NewSegment:
    """Where the item belongs by now: a purge may have handed its rows over to a fork."""
    return replace(segment, session_key=one.session_key, seq=one.seq, turn=one.turn, audience=one.audience)


def _vectors_of(tenant_id: str, one: Unfilled) -> NewChange:
    if is_memory(one.item):
        return NewChange(ChangeKind.VECTORS, tenant_id, memory_key=item_key(one.item))
    return NewChange(ChangeKind.VECTORS, tenant_id, one.session_key, one.seq, one.seq)
