"""Working at an operation over both databases."""

import asyncio
from datetime import timedelta

import pytest

from memory.domain.errors import StorageUnavailable
from memory.domain.operations import OperationKind, OperationState
from memory.services.attempts import MOST, attempt
from tests.unit.memory.services.world import World

LEASE = timedelta(minutes=1)


@pytest.fixture
def world(storage):
    return World(storage)


@pytest.fixture
async def operation_id(world):
    async with world.storage.write() as tx:
        found, _ = await tx.operations.enqueue(
            "acme", OperationKind.CODEC, "work", world.clock.now(), total=1, unit="steps"
        )
    return found


def tried(world, operation_id):
    return attempt(world.storage, world.clock, LEASE, operation_id)


async def now(world, operation_id):
    async with world.storage.read() as tx:
        return await tx.operations.by_id(operation_id)


async def test_one_works_at_it_at_a_time(world, operation_id):
    async with tried(world, operation_id) as mine, tried(world, operation_id) as theirs:
        assert mine is not None
        assert theirs is None


async def test_what_fails_for_good_is_given_up_and_says_why(world, operation_id):
    for number in range(MOST):
        assert (await now(world, operation_id)).state is OperationState.QUEUED, number
        with pytest.raises(ValueError, match="never"):
            async with tried(world, operation_id):
                raise ValueError("never")
    failed = await now(world, operation_id)
    assert (failed.state, failed.error) == (OperationState.FAILED, "ValueError: never")


async def test_what_may_pass_is_tried_for_ever(world, operation_id):
    for _ in range(MOST + 2):
        with pytest.raises(StorageUnavailable):
            async with tried(world, operation_id):
                raise StorageUnavailable("away")
    assert (await now(world, operation_id)).state is OperationState.QUEUED


async def test_who_is_stopped_leaves_it_to_the_next(world, operation_id):
    working = asyncio.Event()

    async def work():
        async with tried(world, operation_id):
            working.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with tried(world, operation_id) as next_one:
        assert next_one is not None
