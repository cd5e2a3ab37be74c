"""Versions, supersede and restore over both databases."""

import asyncio
from datetime import timedelta

import pytest

from memory.domain.errors import (
    Forbidden,
    InvalidInput,
    MemoryExists,
    MemorySuperseded,
    NotFound,
    NotSuperseded,
    PreconditionFailed,
)
from memory.domain.memories import MemoryVisibility
from memory.domain.principals import Principal
from tests.unit.memory.services.world import ME, World

BOB = Principal("acme", agent_id="bob")


@pytest.fixture
def world(storage):
    return World(storage)


async def supersede(world, memory_id, text, reason=None, by=ME):
    return await world.history.supersede(by, memory_id, text, reason, if_match=None)


async def restore(world, memory_id, by=ME):
    return await world.history.restore(by, memory_id, None, if_match=None)


async def versions(world, memory_id, by=ME):
    return await world.history.page(by, memory_id, after_version=None, limit=99)


async def valid(world):
    """The texts that are valid now."""
    async with world.storage.read() as tx:
        found = await tx.memories.page("acme", frozenset({"tenant", "private:ann"}), after_key=None, limit=99)
    return {m.text for m in found if not m.ended(world.clock.now())}


async def test_every_version_says_what_who_when_and_why(world):
    (first,) = await world.add("Ann lives in Oslo.", metadata={"n": 1})
    world.clock.pass_time(days=1)
    await world.memories.update(BOB, first, {"text": "Ann lives in Oslo, Norway."}, if_match=None)
    world.clock.pass_time(days=1)
    new = await supersede(world, first, "Ann lives in Bergen.", "she moved")
    one, two, three = await versions(world, first)
    start = one.changed_at
    assert [v.version for v in (one, two, three)] == [1, 2, 3]
    assert [v.changed_by for v in (one, two, three)] == ["ann", "bob", "ann"]
    assert [v.changed_at - start for v in (one, two, three)] == [timedelta(days=n) for n in range(3)]
    assert (one.text, two.text, three.text) == ("Ann lives in Oslo.", *["Ann lives in Oslo, Norway."] * 2)
    assert (three.superseded_by, three.reason, three.valid_to) == (new.memory_id, "she moved", three.changed_at)
    assert [v.version for v in await world.history.page(ME, first, after_version=1, limit=1)] == [2]


async def test_the_new_memory_takes_scope_kind_and_end_of_the_old_one(world):
    end = world.clock.now() + timedelta(days=9)
    (old,) = await world.add(
        "at ten", visibility=MemoryVisibility.PRIVATE, metadata={"a": 1}, pinned=True, valid_to=end, agent_id="ann"
    )
    world.clock.pass_time(days=1)
    new = await supersede(world, old, "at eleven")
    before = await world.get(old)
    assert (before.valid_to, before.superseded_by) == (world.clock.now(), new.memory_id)
    assert (new.valid_from, new.valid_to, new.supersedes) == (world.clock.now(), end, old)
    assert (new.visibility, new.metadata, new.pinned, new.agent_id) == ("private", {"a": 1}, True, "ann")
    assert (new.version, new.superseded_by, new.token_count) == (1, None, 2)
    assert await valid(world) == {"at eleven"}


async def test_restoring_undoes_it_again_and_again(world):
    (oslo,) = await world.add("Oslo")
    bergen = (await supersede(world, oslo, "Bergen")).memory_id
    narvik = (await supersede(world, bergen, "Narvik")).memory_id
    for memory_id, text in ((oslo, "Oslo"), (narvik, "Narvik"), (bergen, "Bergen"), (oslo, "Oslo")):
        world.clock.pass_time(hours=1)
        restored = await restore(world, memory_id)
        assert (restored.text, restored.valid_to, restored.superseded_by) == (text, None, None)
        assert await valid(world) == {text}
    with pytest.raises(NotSuperseded):
        await restore(world, oslo)


async def test_what_was_restored_ends_when_it_would_have_ended(world):
    end = world.clock.now() + timedelta(days=2)
    (old,) = await world.add("Oslo", valid_to=end)
    await supersede(world, old, "Bergen")
    await world.memories.update(ME, old, {"pinned": True}, if_match=None)
    assert (await restore(world, old)).valid_to == end


async def test_the_place_of_a_purged_memory_is_closed(world):
    (oslo,) = await world.add("Oslo")
    bergen = (await supersede(world, oslo, "Bergen")).memory_id
    await supersede(world, bergen, "Narvik")
    async with world.storage.write() as tx:
        await tx.memories.purge((await tx.memories.get("acme", bergen)).memory_key)
    await restore(world, oslo)
    assert await valid(world) == {"Oslo"}


async def test_what_took_its_place_may_be_purged(world):
    (oslo,) = await world.add("Oslo")
    bergen = (await supersede(world, oslo, "Bergen")).memory_id
    async with world.storage.write() as tx:
        await tx.memories.purge((await tx.memories.get("acme", bergen)).memory_key)
    await restore(world, oslo)
    assert await valid(world) == {"Oslo"}


async def test_a_superseded_text_may_be_written_again_and_then_not_be_restored(world):
    (oslo,) = await world.add("Oslo")
    await supersede(world, oslo, "Bergen")
    (again,) = await world.add("Oslo")
    assert again != oslo
    with pytest.raises(MemoryExists):
        await restore(world, oslo)
    assert await valid(world) == {"Oslo", "Bergen"}


async def test_what_cannot_be_superseded_is_refused_and_nothing_changes(world):
    oslo, paris = await world.add("Oslo", "Paris")
    with pytest.raises(InvalidInput):
        await supersede(world, oslo, "Oslo")
    with pytest.raises(MemoryExists):
        await supersede(world, oslo, "Paris")
    with pytest.raises(PreconditionFailed):
        await world.history.supersede(ME, oslo, "Bergen", None, if_match='"0-0"')
    with pytest.raises(NotFound):
        await supersede(world, "absent", "Bergen")
    assert await valid(world) == {"Oslo", "Paris"}
    bergen = (await supersede(world, oslo, "Bergen")).memory_id
    with pytest.raises(MemorySuperseded, match=bergen):
        await supersede(world, oslo, "Narvik")
    with pytest.raises(MemorySuperseded):
        await world.memories.update(ME, oslo, {"valid_to": None}, if_match=None)
    assert (await world.get(paris)).version == 1


async def test_of_many_who_supersede_at_once_one_does(database):
    worlds = [World(database.open()) for _ in range(3)]
    (oslo,) = await worlds[0].add("Oslo")
    tries = [supersede(worlds[n % 3], oslo, f"town {n}") for n in range(9)]
    found = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, MemorySuperseded) for one in found) == 8
    assert len(await valid(worlds[0])) == 1


async def test_another_agents_private_memory_is_neither_read_nor_replaced(world):
    (mine,) = await world.add("my secret", visibility=MemoryVisibility.PRIVATE)
    for attempt in (versions(world, mine, by=BOB), supersede(world, mine, "x", by=BOB), restore(world, mine, by=BOB)):
        with pytest.raises(NotFound):
            await attempt


async def test_what_was_private_stays_so_in_the_history(world):
    (mine,) = await world.add("my secret", visibility=MemoryVisibility.PRIVATE)
    await world.memories.update(ME, mine, {"visibility": MemoryVisibility.TENANT, "text": "public"}, if_match=None)
    assert [v.text for v in await versions(world, mine)] == ["my secret", "public"]
    assert [v.text for v in await versions(world, mine, by=BOB)] == ["public"]


async def test_what_is_out_of_reach_is_not_ended_by_a_restore(world):
    (oslo,) = await world.add("Oslo")
    bergen = (await supersede(world, oslo, "Bergen")).memory_id
    await world.memories.update(ME, bergen, {"visibility": MemoryVisibility.PRIVATE}, if_match=None)
    with pytest.raises(Forbidden):
        await restore(world, oslo, by=BOB)


async def test_an_edit_before_the_workers_came_does_not_cost_the_vectors(world):
    """Version 2 counted as cut because its text was that of version 1, which was not."""
    patched, old = await world.add("tea is hot", "coffee is hot")
    await world.memories.update(ME, patched, {"pinned": True}, if_match=None)
    new = (await supersede(world, old, "coffee is cold")).memory_id
    await world.work()
    async with world.storage.read() as tx:
        for memory_id in (patched, old, new):
            item = (await tx.memories.get("acme", memory_id)).item
            spans = await tx.segments.spans(world.embedder.space, [item])
            assert all(vector is not None for _, vector in spans[item]), memory_id
