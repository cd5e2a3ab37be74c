"""Near-duplicates over both databases, with jobs run by hand."""

import asyncio
from datetime import timedelta

import numpy as np
import pytest

from memory.domain.memories import MemoryKind, MemoryVisibility
from memory.domain.operations import UNFINISHED
from memory.services.duplicates import Duplicates
from tests.unit.memory.services.world import LEASE, ME, World

TEA = "in the long dark afternoons of winter she likes to drink a cup of hot green tea"


@pytest.fixture
def world(storage):
    return World(storage)


async def repeated(world, *memory_ids):
    return [(await world.get(one)).near_duplicate_of for one in memory_ids]


async def test_what_says_the_same_is_marked_and_kept(world):
    first, second, other = await world.add(TEA, f"{TEA} indeed", "the bicycle stands behind the old barn in the rain")
    await world.work()
    assert await repeated(world, first, second, other) == [None, first, None]
    (third,) = await world.add(f"well {TEA}")
    await world.work()
    assert await repeated(world, third) == [first]


async def test_what_repeats_a_repetition_but_not_the_first_is_no_repetition(world):
    """Else a chain of small steps would lead to something quite different."""
    ids = await world.add(TEA, f"{TEA} honey", f"{TEA} honey garden", f"{TEA} honey garden spoon")
    await world.work()
    assert await repeated(world, *ids) == [None, ids[0], None, ids[2]]


async def test_another_kind_scope_or_number_is_no_repetition(world):
    await world.add(TEA)
    ids = [
        *(await world.add(f"{TEA} indeed", visibility=MemoryVisibility.PRIVATE)),
        *(await world.add(f"{TEA} too", kind=MemoryKind.NOTE)),
        *(await world.add(f"{TEA} 7")),
        *(await world.add(f"not {TEA}")),
    ]
    await world.work()
    assert await repeated(world, *ids) == [None] * 4


async def test_an_edit_and_a_purge_are_compared_anew(world):
    first, second, third = await world.add(TEA, f"{TEA} indeed", f"{TEA} really")
    await world.work()
    await world.memories.update(ME, first, {"text": "the bicycle stands behind the old barn"}, if_match=None)
    assert await repeated(world, second, third) == [None, None]
    await world.work()
    assert await repeated(world, first, second, third) == [None, None, second]
    async with world.storage.write() as tx:
        await tx.memories.purge((await tx.memories.get("acme", second)).memory_key)
    assert await repeated(world, third) == [None]


async def test_an_edit_of_anything_else_keeps_the_mark(world):
    first, second = await world.add(TEA, f"{TEA} indeed")
    await world.work()
    await world.memories.update(ME, first, {"pinned": True}, if_match=None)
    await world.memories.update(ME, second, {"metadata": {"a": 1}}, if_match=None)
    await world.work()
    assert await repeated(world, first, second) == [None, first]


async def test_what_has_ended_is_not_repeated(world):
    await world.add(TEA, valid_to=world.clock.now() + timedelta(days=1))
    world.clock.pass_time(days=2)
    (later,) = await world.add(f"{TEA} indeed")
    await world.work()
    assert await repeated(world, later) == [None]


async def test_memories_of_before_the_signatures_are_compared_as_well(world, database):
    first, second = await world.add(TEA, f"{TEA} indeed")
    await world.work()
    await database.rows("UPDATE segments SET signature = NULL")
    await database.rows("UPDATE memories SET compared = false, near_duplicate_of = NULL")
    fresh = World(world.storage, world.clock)
    (third,) = await fresh.add(f"{TEA} really")
    await fresh.work()
    assert await repeated(fresh, first, second, third) == [None, first, first]
    assert await database.rows("SELECT count(*) FROM segments WHERE signature IS NULL") == [(0,)]


async def test_two_workers_that_both_have_the_job_mark_one_of_two(world, database):
    """The lease of one ran out while it was still at it."""
    ids = await world.add(TEA, f"{TEA} indeed")
    async with world.storage.read() as tx:
        (operation,) = await tx.operations.page("acme", states=UNFINISHED, after_id=None, limit=9)
    await world.consolidation.consolidate(operation.operation_id)
    await world.consolidation.embed(operation.operation_id)
    other = Duplicates(database.open(), world.spaces, world.clock, LEASE, 0.9)
    await asyncio.gather(world.duplicates.compare(operation), other.compare(operation))
    assert await repeated(world, *ids) == [None, ids[0]]


async def test_a_tenants_signatures_are_read_once(world, monkeypatch):
    await world.add(*[f"number {n} of many texts that say nothing alike {'x' * n}" for n in range(9)])
    await world.work()
    (known,) = world.duplicates._signed.values()
    assert len(np.unique(known.items)) == 9
    await world.add("one more")
    await world.work()
    (known,) = world.duplicates._signed.values()
    assert len(known.items) == 10
