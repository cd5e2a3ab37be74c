"""Counting uses over both databases."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from memory.domain.errors import StorageUnavailable
from memory.domain.recall import TierName
from memory.services.usage import Usage
from tests.unit.memory.services.world import World


@pytest.fixture
def world(storage):
    return World(storage)


async def test_a_use_is_seen_at_once_and_written_later(world, database):
    (memory_id,) = await world.add("tea")
    item, used_at = (await world.get(memory_id)).item, world.clock.now()
    world.usage.note([(item, TierName.LONGTERM)] * 2)
    world.clock.pass_time(minutes=1)
    assert await database.rows("SELECT access_count FROM memories") == [(0,)]
    for _ in range(2):
        seen = await world.get(memory_id)
        assert (seen.access_count, seen.last_accessed_at) == (2, used_at)
        await world.usage.flush()
    assert await database.rows("SELECT access_count FROM memories") == [(2,)]
    assert seen.version == 1


async def test_uses_that_cannot_be_written_are_written_next_time(world):
    (memory_id,) = await world.add("tea")
    item = (await world.get(memory_id)).item

    class Failing:
        @asynccontextmanager
        async def write(self):
            raise StorageUnavailable("away")
            yield

    usage = Usage(Failing(), world.clock)
    usage.note([(item, TierName.LONGTERM)])
    with pytest.raises(StorageUnavailable):
        await usage.flush()
    world.clock.pass_time(minutes=1)
    usage.note([(item, TierName.LONGTERM)])
    usage._storage = world.storage
    await usage.flush()
    await usage.flush()
    seen = await world.get(memory_id)
    assert (seen.access_count, seen.last_accessed_at) == (2, world.clock.now())


async def test_processes_that_count_the_same_memories_at_once_lose_none(database):
    worlds = [World(database.open()) for _ in range(2)]
    ids = await worlds[0].add(*[f"note {number}" for number in range(30)])
    items = [(await worlds[0].get(one)).item for one in ids]
    for turn in range(5):
        for world, order in zip(worlds, (items, items[::-1]), strict=True):
            world.usage.note([(item, TierName.LONGTERM) for item in order])
            world.clock.pass_time(seconds=turn)
        await asyncio.gather(*(world.usage.flush() for world in worlds))
    assert {(await worlds[0].get(one)).access_count for one in ids} == {10}


async def test_of_too_many_the_oldest_notes_are_dropped(world, monkeypatch):
    from memory.services import usage

    monkeypatch.setattr(usage, "_MOST", 3)
    world.usage.note([(2 * number, TierName.LONGTERM) for number in range(9)])
    assert sorted(world.usage._noted) == [12, 14, 16]
    assert world.usage.by_tier[TierName.LONGTERM] == 9
    assert timedelta(0) == world.clock.now() - world.usage._noted[16].last
