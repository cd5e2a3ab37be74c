"""What every database keeps to about the space of a tenant, and segments of others."""

import asyncio

import pytest

from memory.domain.segments import Unfilled
from tests.services import NOW, SPACE, TENANT, add_events, add_memory, add_session, new_segment, segments_of

NEW = "another space"


@pytest.fixture
async def said(storage):
    """Three events and a memory, each of one segment with its vector; by item."""
    async with storage.write() as tx:
        session = await add_session(tx)
        events = await add_events(tx, session, "One.", "Two.", "Three.")
        memory = await add_memory(tx, "A note.")
        pieces = [*segments_of(*events), new_segment(memory.item)]
        await tx.spaces.fill(TENANT, SPACE, pieces, [b"12"] * 4, NOW)
    return {piece.item: piece for piece in pieces}


async def unfilled(storage, space=NEW, after=0, limit=9):
    async with storage.read() as tx:
        return await tx.spaces.unfilled(TENANT, space, after, limit)


async def test_a_tenant_has_the_space_that_came_first_until_it_is_changed(storage, said):
    async with storage.write() as tx:
        assert await tx.spaces.of(TENANT) is None
        await tx.spaces.begin(TENANT, SPACE)
        await tx.spaces.begin(TENANT, NEW)
        assert await tx.spaces.of(TENANT) == SPACE
        await tx.spaces.change(TENANT, NEW)
    async with storage.read() as tx:
        assert (await tx.spaces.all())[TENANT] == await tx.spaces.of(TENANT) == NEW
        assert await tx.spaces.of("nobody") is None


async def test_the_name_of_a_model_is_noted_with_its_space(storage):
    async with storage.write() as tx:
        await tx.spaces.note(SPACE, "minilm", NOW)
        await tx.spaces.note(SPACE, "/models/moved", NOW)
        await tx.spaces.note(NEW, "minilm", NOW)
        assert await tx.spaces.embedders() == {SPACE: "/models/moved", NEW: "minilm"}


async def test_items_without_segments_in_a_space_come_a_page_at_a_time(storage, said):
    assert await unfilled(storage, SPACE) == []
    found = await unfilled(storage)
    assert [one.item for one in found] == list(said)
    piece = said[found[1].item]
    assert found[1] == Unfilled(
        found[1].segment_key, piece.item, piece.session_key, piece.seq, piece.turn, piece.audience
    )
    assert [one.item for one in await unfilled(storage, after=found[0].segment_key, limit=2)] == list(said)[1:3]
    async with storage.write() as tx:
        await tx.spaces.fill(TENANT, NEW, [said[found[0].item]], [b"1234"], NOW)
        await tx.spaces.fill(TENANT, NEW, [said[found[0].item]], [b"5678"], NOW)
        assert await tx.spaces.count_unfilled(TENANT, NEW) == 3
        assert (await tx.segments.spans(NEW, [found[0].item]))[found[0].item][0][1] == b"1234", "the first one stays"
        assert await tx.spaces.unfilled("nobody", NEW, 0, 9) == []
    assert [one.item for one in await unfilled(storage)] == list(said)[1:]


async def test_an_item_of_many_segments_is_one(storage, said):
    async with storage.write() as tx:
        memory = await add_memory(tx, "A long note.")
        pieces = [new_segment(memory.item, ordinal=ordinal) for ordinal in range(3)]
        await tx.spaces.fill(TENANT, SPACE, pieces, [b"12"] * 3, NOW)
        assert await tx.spaces.count_unfilled(TENANT, NEW) == 5
    assert [one.item for one in await unfilled(storage)] == [*said, memory.item]


async def test_what_is_left_goes_space_by_space_in_parts(storage, said):
    async with storage.write() as tx:
        await tx.spaces.fill(TENANT, NEW, list(said.values()), [b"1234"] * 4, NOW)
        assert sorted(await tx.spaces.others(TENANT, NEW)) == [SPACE]
        assert await tx.spaces.others("nobody", NEW) == []
        assert [await tx.spaces.drop(TENANT, SPACE, 3) for _ in range(3)] == [3, 1, 0]
        assert await tx.spaces.others(TENANT, NEW) == []
        assert len(await tx.changes.vectors_of(NEW, await tx.changes.items(TENANT))) == 4


async def test_the_semantic_tier_leaves_the_old_space_and_its_clusters(storage, said):
    first = next(iter(said.values()))
    async with storage.write() as tx:
        cluster = await tx.clusters.add(first.session_key, first.audience, b"1234", 1)
        (new, *_) = await tx.segments.newest(first.session_key, SPACE, 9)
        await tx.segments.hold({new.segment_key: cluster})
        await tx.spaces.leave(TENANT, NEW)
        assert await tx.clusters.of_session(first.session_key) == []
        assert await tx.segments.held(first.session_key, SPACE) == []


async def test_who_holds_a_space_has_it_until_the_end(database, storage, said):
    """PostgreSQL has many writers; SQLite has one, which holds everything."""
    async with storage.write() as tx:
        await tx.spaces.begin(TENANT, SPACE)
    other, order = database.open(), []

    async def change():
        async with other.write() as tx:
            await tx.spaces.change(TENANT, NEW)
            order.append("changed")

    async with storage.write() as tx:
        assert await tx.spaces.of(TENANT, held=True) == SPACE
        changing = asyncio.create_task(change())
        await asyncio.sleep(0.3)
        order.append("held")
    await changing
    assert order == ["held", "changed"]
