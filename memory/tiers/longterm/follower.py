"""What do changes of the feed mean for a tenant's index? Reads the rows that they name."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from memory.domain.changes import Change, ChangeKind, Position
from memory.domain.ids import ItemId, memory_item
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts
from memory.ports.storage import Storage, UnitOfWork
from memory.tiers.longterm.tenant_index import Batch, TenantIndex

PAGE = 2_000
_ITEMS_WITH_VECTORS = 500
"""A page: a long text has some hundred vectors."""


@dataclass(slots=True)
class Followed:
    """An index and how far it has followed the feed.

    position: everything up to it is in the index. ahead: changes beyond it that are in the index as well.
    """

    index: TenantIndex
    position: Position
    ahead: set[Position] = field(default_factory=set)


async def follow(
    storage: Storage, tenant_id: str, space: str, followed: Followed, apply: Callable[[Batch], Awaitable[None]]
) -> int:
    """Applies all that is committed; the number of changes that were new."""
    applied = 0
    # A place of its own: while a transaction somewhere stays open, `position` stands still, for pages.
    place = followed.position
    while True:
        changes, batch = await _read_changes(storage, tenant_id, place, followed, space)
        new = [change for change in changes if change.position not in followed.ahead]
        if new:
            await apply(batch)
            applied += len(new)
        followed.ahead |= {change.position for change in new}
        for change in changes:
            if not change.settled or followed.position < place:
                break
            followed.position = place = change.position
        followed.ahead = {position for position in followed.ahead if position > followed.position}
        if len(changes) < PAGE:
            return applied
        place = changes[-1].position


async def all_facts(storage: Storage, tenant_id: str) -> AsyncIterator[list[ItemFacts]]:
    """Everything of a tenant, a page at a time."""
    for items in await _pages(storage, tenant_id, PAGE):
        async with storage.read() as tx:
            facts = await tx.changes.facts_of(items)
        if facts:
            yield facts


async def vector_pages(storage: Storage, tenant_id: str, space: str) -> AsyncIterator[list[SegmentVector]]:
    """Every vector of a tenant, a page at a time, those of one item together."""
    for items in await _pages(storage, tenant_id, _ITEMS_WITH_VECTORS):
        async with storage.read() as tx:
            vectors = await tx.changes.vectors_of(space, items)
        if vectors:
            yield vectors


async def _pages(storage: Storage, tenant_id: str, size: int) -> Iterator[Sequence[ItemId]]:
    async with storage.read() as tx:
        items = await tx.changes.items(tenant_id)
    return (items[at : at + size] for at in range(0, len(items), size))


async def count(storage: Storage, tenant_id: str) -> int:
    """Items of a tenant in the database."""
    async with storage.read() as tx:
        events = (await tx.sessions.totals(tenant_id))["events"] - await tx.sessions.all_redactions(tenant_id)
        return events + await tx.memories.count(tenant_id)


async def head(storage: Storage) -> Position:
    async with storage.read() as tx:
        return await tx.changes.head()


async def apply_beside(index: TenantIndex, batch: Batch) -> None:
    """To an index that nobody reads yet, and whose words are written elsewhere."""
    await asyncio.to_thread(index.apply, batch, words=False)


async def _read_changes(
    storage: Storage, tenant_id: str, position: Position, followed: Followed, space: str
) -> tuple[list[Change], Batch]:
    """The next changes after `position`, and the rows that those name which are not in the index yet."""
    batch = Batch()
    async with storage.read() as tx:
        found = await tx.changes.after(position, tenant_id=tenant_id, limit=PAGE)
        for change in found:
            if change.position not in followed.ahead:
                await _read(tx, change, space, followed.index, batch)
    return found, batch


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
        case ChangeKind.REDACTED if key is not None:
            batch.gone += await tx.changes.redacted_items(key, first, last)
        case ChangeKind.TENANT_PURGED:
            batch.gone += index.all_items()  # the process drops the whole index as soon as it hears of it
        case ChangeKind.SESSION_PURGED if key is not None:
            batch.gone += index.items_of_session(key)
