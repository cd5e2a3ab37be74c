"""How is a part of an open index made anew, or compared with the database, while it serves?"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from memory.domain.ids import ItemId, is_memory, item_key
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts
from memory.tiers.longterm import follower, snapshot
from memory.tiers.longterm.catalogue import NO_SESSION
from memory.tiers.longterm.locks import in_background, in_thread
from memory.tiers.longterm.opened import Home, OpenTenant, Told, untold
from memory.tiers.longterm.opening import build_index
from memory.tiers.longterm.tenant_index import TenantIndex, document

_ROUNDS = 3
_MOST_SUSPECTS = 1_000
"""Items that are looked at a second time: a change may have come between the database and the index."""


async def rebuild_vectors(
    tenant: OpenTenant, told: Told = untold, *, home: Home | None = None, exchanged: Callable[[], None] = lambda: None
) -> None:
    """Vectors and catalogue are made from the database, then exchanged in one step; twice the memory until then.

    `home`: the tenant's from then on, with vectors of another space. `exchanged`: called in that step.
    """
    async with tenant.rebuilding:
        home = home or tenant.home
        folder = tenant.spared = await asyncio.to_thread(snapshot.new_vectors_folder, home.folder)
        try:
            made = await build_index(home, folder, tenant.index.lexical, lambda documents: None, told)
            while work := made.index.upkeep():  # so that the new index is as fast as the old one from its first moment
                await in_background(work.prepare)
                await in_thread(work.finish)
            beside = partial(follower.apply_beside, made.index)
            await follower.follow(home.storage, home.tenant_id, home.space, made, beside)  # while the old one serves
            await tenant.exchange(made, folder, home, exchanged)
        finally:
            tenant.spared = None
        await tenant.save_vectors()


async def verify_vectors(tenant: OpenTenant, told: Told = untold) -> list[str]:
    """What differs from the database, in words; every item and every vector is compared."""
    home, done = tenant.home, 0
    await tenant.catch_up()
    suspects: set[ItemId] = set()
    async for facts in follower.all_facts(home.storage, home.tenant_id):
        async with tenant.lock.reading():
            suspects.update(await in_thread(partial(_other_facts, tenant.index, facts)))
        await told(done := done + len(facts))
    async for page in follower.vector_pages(home.storage, home.tenant_id, home.space):
        async with tenant.lock.reading():
            suspects.update(await in_thread(partial(_other_vectors, tenant.index, page)))
        await told(done := done + len({vector.item for vector in page}))
    catalogued = await _counted(tenant, "catalogue", lambda: tenant.index.catalogue.live)
    return [*catalogued, *await _confirmed(tenant, sorted(suspects))]


async def verify_words(tenant: OpenTenant, told: Told = untold) -> list[str]:
    """What differs from the database, in words; of every item its number of terms is compared."""
    home, done = tenant.home, 0
    await tenant.catch_up()
    suspects: list[ItemId] = []
    async for facts in follower.all_facts(home.storage, home.tenant_id):
        suspects += await in_thread(partial(_missing_words, tenant.index, facts))
        await told(done := done + len(facts))
    await tenant.catch_up()
    checked = suspects[:_MOST_SUSPECTS]
    still = await _facts_of(tenant, checked)
    missing = await in_thread(lambda: _missing_words(tenant.index, still))
    number = _number(missing, suspects, checked)
    problems = [f"{number} are not in the word index as they are in the database"] * bool(missing)
    return [*problems, *await _counted(tenant, "word index", lambda: len(tenant.index.lexical))]


async def _counted(tenant: OpenTenant, name: str, held: Callable[[], int]) -> list[str]:
    """Looked at until nothing came between: a second time is enough unless somebody appends all the while."""
    for _ in range(_ROUNDS):
        await tenant.catch_up()
        before = held()
        stored = await follower.count(tenant.home.storage, tenant.tenant_id)
        if before == stored:
            return []
    return [f"the {name} holds {before} items, the database {stored}"]


async def _confirmed(tenant: OpenTenant, suspects: list[ItemId]) -> list[str]:
    """Of what seemed different, what still is when both are looked at again."""
    checked = suspects[:_MOST_SUSPECTS]
    different = []
    for item in checked:
        await tenant.catch_up()
        (facts, vectors) = await _read(tenant, item)
        async with tenant.lock.reading():
            if facts and (_other_facts(tenant.index, facts) or _other_vectors(tenant.index, vectors)):
                different.append(item)
    return [f"{_number(different, suspects, checked)} differ from the database"] * bool(different)


def _number(found: Sequence[ItemId], suspects: Sequence[ItemId], checked: Sequence[ItemId]) -> str:
    return f"{len(found)} items" if len(checked) == len(suspects) else f"{len(found)} items and more"


async def _facts_of(tenant: OpenTenant, items: Sequence[ItemId]) -> list[ItemFacts]:
    return [facts for item in items for facts in (await _read(tenant, item))[0]]


async def _read(tenant: OpenTenant, item: ItemId) -> tuple[list[ItemFacts], list[SegmentVector]]:
    """An item as it is in the database; nothing when it is gone."""
    space = tenant.home.space
    async with tenant.home.storage.read() as tx:
        if is_memory(item):
            facts = await tx.changes.memory_facts(item_key(item))
            return ([] if facts is None else [facts]), await tx.changes.vectors_of_memory(space, item_key(item))
        found = await tx.events.by_keys([item_key(item)])
        if not found:
            return [], []
        session, seq = found[0].session_key, found[0].seq
        vectors = await tx.changes.vectors_of_events(space, session, seq, seq)
        return await tx.changes.event_facts(session, seq, seq), vectors


def _missing_words(index: TenantIndex, facts: Sequence[ItemFacts]) -> list[ItemId]:
    return index.lexical.missing([document(one) for one in facts])


def _other_facts(index: TenantIndex, facts: Sequence[ItemFacts]) -> list[ItemId]:
    """Those that the catalogue does not know as they are."""
    catalogue = index.catalogue
    rows = catalogue.rows([one.item for one in facts])
    unlike = []
    for one, row in zip(facts, rows.tolist(), strict=True):
        known = row >= 0 and (
            catalogue.column("session")[row] == (one.session_key or NO_SESSION)
            and catalogue.column("seq")[row] == one.seq
            and catalogue.column("created_at")[row] == one.created_at
            and catalogue.column("valid_to")[row] == one.valid_to
            and catalogue.audiences.names[catalogue.column("audience")[row]] == one.audience
        )
        if not known:
            unlike.append(one.item)
    return unlike


def _other_vectors(index: TenantIndex, page: Sequence[SegmentVector]) -> list[ItemId]:
    """Items of which one of these vectors is not in the index, or another one."""
    catalogue = index.catalogue
    if not len(catalogue) or not page:
        return [vector.item for vector in page]
    rows = catalogue.rows([vector.item for vector in page])
    ordinals = np.array([vector.ordinal for vector in page], np.int64)
    there = (rows >= 0) & (ordinals < catalogue.column("vectors")[np.maximum(rows, 0)])
    at = catalogue.column("first_vector")[np.maximum(rows, 0)].astype(np.int64) + ordinals
    wanted = np.frombuffer(b"".join(vector.vector for vector in page), "<f2").reshape(len(page), -1)
    same = there.copy()
    same[there] = (index.vectors.vectors(at[there]) == wanted[there].astype(np.float32)).all(axis=1)
    return [vector.item for vector, alike in zip(page, same.tolist(), strict=True) if not alike]
