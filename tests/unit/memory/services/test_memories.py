"""Memories over both databases: one row a text and scope, whoever writes it at the same moment."""

import asyncio
import random
from datetime import timedelta

import pytest

from memory.domain.errors import MemoryExists
from memory.domain.memories import MemoryKind, MemoryVisibility
from tests.unit.memory.services.world import ME, World, memory


@pytest.fixture
def world(storage):
    return World(storage)


async def test_batches_with_the_same_texts_in_any_order_end_in_one_row_each(database):
    """Two that hold what the other waits for would be a deadlock, which a client sees as 503."""
    worlds = [World(database.open()) for _ in range(4)]
    await worlds[0].add("the first of the tenant")
    texts = [f"text {number}" for number in range(40)]

    async def add(number):
        order = random.Random(number).sample(texts, len(texts))
        return dict(zip(order, await worlds[number % 4].add(*order), strict=True))

    answers = await asyncio.gather(*(add(number) for number in range(12)))
    for text in texts:
        assert len({answer[text] for answer in answers}) == 1
    assert await database.rows("SELECT count(*), count(DISTINCT text) FROM memories") == [(41, 41)]
    assert await database.rows("SELECT count(*) FROM memory_versions") == [(41,)]


async def test_a_text_that_is_written_and_edited_into_at_once_is_there_once_or_told(database):
    worlds = [World(database.open()) for _ in range(2)]
    (edited,) = await worlds[0].add("before")
    for number in range(10):
        text = f"after {number}"
        changes = worlds[0].memories.update(ME, edited, {"text": text}, if_match=None)
        await asyncio.gather(changes, worlds[1].add(text))
        rows = await database.rows("SELECT count(*) FROM memories WHERE text = :text", text=text)
        hashes = "SELECT count(*) FROM memories WHERE text = :text AND scope_hash IS NOT NULL"
        assert rows in ([(1,)], [(2,)])
        assert await database.rows(hashes, text=text) == [(1,)]


async def test_doubles_in_one_batch_are_one(world):
    first, again = await world.memories.add(ME, [memory("tea"), memory("tea")])
    assert (first.deduplicated, again.deduplicated) == (False, True)
    assert first.memory.memory_id == again.memory.memory_id


async def test_the_same_text_of_another_scope_or_kind_is_another_memory(world):
    ids = [
        *(await world.add("tea")),
        *(await world.add("tea", kind=MemoryKind.NOTE)),
        *(await world.add("tea", visibility=MemoryVisibility.PRIVATE)),
        *(await world.add("Tea")),
    ]
    assert len(set(ids)) == 4


async def test_a_memory_id_of_another_text_is_refused_and_nothing_of_the_batch_is_kept(world):
    await world.add("tea", memory_id="m")
    for text, memory_id in (("coffee", "m"), ("tea", "other")):
        with pytest.raises(MemoryExists):
            await world.memories.add(ME, [memory("new"), memory(text, memory_id=memory_id)])
    async with world.storage.read() as tx:
        assert await tx.memories.count("acme") == 1


async def test_an_ended_memory_gives_its_text_up_to_an_edit_too(world):
    (old,) = await world.add("tea", valid_to=world.clock.now() + timedelta(hours=1))
    (other,) = await world.add("coffee")
    world.clock.pass_time(hours=2)
    await world.memories.update(ME, other, {"text": "tea"}, if_match=None)
    assert await world.add("tea") == [other]
    assert old != other
