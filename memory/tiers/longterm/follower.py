"""What do changes of the feed mean for a tenant's index? Reads the rows that they name."""

import asyncio
from collections.abc import Sequence

from memory.domain.changes import Change, ChangeKind, Position
from memory.domain.ids import ItemId, is_memory, item_key, memory_item
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts
from memory.ports.storage import Storage, UnitOfWork
from memory.tiers.longterm.tenant_index import Batch, TenantIndex

PAGE = 2_000


async def read_changes(
    storage: Storage, tenant_id: str, position: Position, applied: set[Position], space: str, index: TenantIndex
) -> tuple[list[Change], Batch]:
    """The next changes after `position` that are not in `applied`, and the rows they name."""
    batch = Batch()
    async with storage.read() as tx:
        found = await tx.changes.after(position, tenant_id=tenant_id, limit=PAGE)
        for change in found:
            if change.position not in applied:
                await _read(tx, change, space, index, batch)
    return found, batch


async def read_everything(storage: Storage, tenant_id: str, space: str, index: TenantIndex) -> Position:
    """Fills an empty index from the database, without embedding; returns the place in the feed to go on from."""
    async with storage.read() as tx:
        position = await tx.changes.head()
    for memories_only in (False, True):
        last: ItemId | None = None
        while facts := await _facts_page(storage, tenant_id, last, memories_only):
            await asyncio.to_thread(index.apply, Batch(facts=facts))
            last = facts[-1].item
    after = 0
    while True:
        async with storage.read() as tx:
            page = await tx.changes.all_vectors(tenant_id, space, after, PAGE)
            vectors = await _whole(tx, space, index, [vector for _, vector in page])
        if not page:
            return position
        await asyncio.to_thread(index.apply, Batch(vectors=vectors))
        after = page[-1][0]


async def read_texts(storage: Storage, tenant_id: str) -> list[ItemFacts]:
    """Every text of a tenant, for writing the word index anew."""
    texts: list[ItemFacts] = []
    for memories_only in (False, True):
        last: ItemId | None = None
        while facts := await _facts_page(storage, tenant_id, last, memories_only):
            texts += facts
            last = facts[-1].item
    return texts


async def _whole(tx: UnitOfWork, space: str, index: TenantIndex, page: Sequence[SegmentVector]) -> list[SegmentVector]:
    """The page, with all vectors of the items that an earlier page began: an index takes an item's vectors together."""
    begun = {vector.item for vector in page if index.has_vectors(vector.item)}
    found = [vector for vector in page if vector.item not in begun]
    for item in begun:
        if is_memory(item):
            found += await tx.changes.vectors_of_memory(space, item_key(item))
        else:
            session, seq = index.place_of(item)
            found += await tx.changes.vectors_of_events(space, session, seq, seq)
    return found


async def _facts_page(storage: Storage, tenant_id: str, last: ItemId | None, memories_only: bool) -> list[ItemFacts]:
    async with storage.read() as tx:
        return await tx.changes.all_facts(tenant_id, last, memories_only, PAGE)


async def _read(tx: UnitOfWork, change: Change, space: str, index: TenantIndex, batch: Batch) -> None:
    key, first, last = change.session_key, change.first_seq, change.last_seq
    match change.kind:
        case ChangeKind.EVENTS if key is not None:
            batch.facts += await tx.changes.event_facts(key, first, last)
        case ChangeKind.VECTORS if key is not None:
            batch.vectors += await tx.changes.vectors_of_events(space, key, first, last)
        case ChangeKind.VECTORS if change.memory_key is not None:
            batch.vectors += await tx.changes.vectors_of_memory(space, change.memory_key)
        case ChangeKind.MEMORY if change.memory_key is not None:
            facts = await tx.changes.memory_facts(change.memory_key)
            if facts is None:
                batch.gone.append(memory_item(change.memory_key))
            else:
                batch.facts.append(facts)
                batch.vectors += await tx.changes.vectors_of_memory(space, change.memory_key)
        case ChangeKind.SESSION_PURGED if key is not None:
            batch.gone += index.catalogue.items_of_session(key)
