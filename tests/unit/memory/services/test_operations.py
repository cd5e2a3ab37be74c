import asyncio

import pytest

from memory.adapters.jobs.recording import RecordingQueue
from memory.domain.errors import Conflict, NotFound
from memory.domain.operations import IndexName, OperationKind, OperationState
from memory.domain.principals import Principal
from memory.services.operations import Operations
from memory.tiers.longterm.tier import LongTermTier
from tests.unit.memory.services.conftest import ME, say

STRANGER = Principal("other")


@pytest.fixture
def asked(container):
    """The service with a queue that remembers what was sent."""
    jobs = RecordingQueue()
    return Operations(container.storage, jobs, container.clock), jobs


async def enqueued(container, kind=OperationKind.PURGE, state=OperationState.FAILED, note=None):
    now = container.clock.now()
    async with container.storage.write() as tx:
        operation_id, _ = await tx.operations.enqueue(ME.tenant_id, kind, "session:1", now, unit="stores")
        await tx.operations.note(operation_id, note or {})
        await tx.operations.finish(operation_id, state, now, error="the disk is full")
    return operation_id


async def test_what_has_failed_is_sent_to_the_workers_again(container, asked):
    service, jobs = asked
    operation_id = await enqueued(container)
    again = await service.retry(ME, operation_id)
    assert (again.state, again.attempts, again.error) == (OperationState.QUEUED, 0, None)
    assert jobs.sent == [("purge", (operation_id,))]


async def test_only_what_has_failed_is_tried_again(container, asked):
    service, jobs = asked
    done = await enqueued(container, state=OperationState.SUCCEEDED)
    with pytest.raises(Conflict, match="succeeded"):
        await service.retry(ME, done)
    failed = await enqueued(container)
    await service.retry(ME, failed)
    with pytest.raises(Conflict, match="queued"):
        await service.retry(ME, failed)
    with pytest.raises(NotFound):
        await service.retry(STRANGER, failed)
    assert len(jobs.sent) == 1


async def test_what_another_does_already_is_not_begun_beside_it(container, asked):
    service, jobs = asked
    failed = await enqueued(container)
    async with container.storage.write() as tx:
        await tx.operations.enqueue(
            ME.tenant_id, OperationKind.PURGE, "session:1", container.clock.now(), unit="stores"
        )
    with pytest.raises(Conflict, match="another operation"):
        await service.retry(ME, failed)
    assert jobs.sent == []


async def test_an_index_of_one_process_is_taken_up_by_that_process(container, asked):
    service, jobs = asked
    note = {"index": IndexName.LEXICAL, "node": "elsewhere"}
    failed = await enqueued(container, OperationKind.REBUILD, note=note)
    assert (await service.retry(ME, failed)).state is OperationState.QUEUED
    assert jobs.sent == []


async def test_a_rebuild_that_failed_is_done_when_it_is_tried_again(container, monkeypatch):
    rebuild = LongTermTier.rebuild

    async def full(*_):
        raise MemoryError("the disk is full")

    monkeypatch.setattr(LongTermTier, "rebuild", full)
    await say(container, "s", "one")
    operation = await container.indexes.request(ME, OperationKind.REBUILD, IndexName.LEXICAL)
    await over(container, operation, OperationState.FAILED)
    monkeypatch.setattr(LongTermTier, "rebuild", rebuild)
    await container.operations.retry(ME, operation.operation_id)
    await container.indexes.run(operation.operation_id)
    await over(container, operation, OperationState.SUCCEEDED)


async def over(container, operation, state):
    for _ in range(400):
        found = await container.operations.get(ME, operation.operation_id)
        if found.state is state:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"it is not {state}: {found}")
