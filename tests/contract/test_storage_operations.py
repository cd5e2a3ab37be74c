"""What every database keeps to about operations, which are the outbox, and about tenants."""

import asyncio
from datetime import timedelta

import pytest

from memory.domain.operations import NewOperation, OperationKind, OperationState, Progress
from memory.domain.principals import Reach
from tests.services import NOW, TENANT

LEASE = timedelta(minutes=2)
INDEX, PURGE = OperationKind.INDEX, OperationKind.PURGE


async def enqueue(tx, subject="session:1", kind=INDEX, tenant_id=TENANT, at=NOW, **options):
    return await tx.operations.enqueue(tenant_id, kind, subject, at, **{"unit": "events", "total": 2, **options})


async def test_a_new_operation_is_queued(storage):
    async with storage.write() as tx:
        operation_id, is_new = await enqueue(tx, session_key=7, session_id="s")
        assert is_new
    async with storage.read() as tx:
        operation = await tx.operations.get(TENANT, operation_id)
        assert operation == await tx.operations.by_id(operation_id)
        assert operation == await tx.operations.unfinished(TENANT, INDEX, "session:1")
        assert await tx.operations.get("other", operation_id) is None
        assert await tx.operations.get(TENANT, "absent") is None
    assert (operation.kind, operation.state, operation.progress) == (INDEX, "queued", Progress(0, 2, "events"))
    assert (operation.session_key, operation.session_id, operation.attempts) == (7, "s", 0)
    assert (operation.created_at, operation.started_at, operation.finished_at) == (NOW, None, None)
    assert (operation.error, operation.result) == (None, None)


async def test_more_of_the_same_work_joins_what_is_unfinished(storage):
    async with storage.write() as tx:
        first, _ = await enqueue(tx)
        assert await enqueue(tx, total=3) == (first, False)
        await tx.operations.claim(first, LEASE, NOW)
        assert await enqueue(tx, total=4) == (first, False)
        operation = await tx.operations.by_id(first)
        assert (operation.progress.total, operation.state) == (9, "running")
        others = [
            await enqueue(tx, "session:2"),
            await enqueue(tx, kind=PURGE),
            await enqueue(tx, tenant_id="other"),
        ]
        assert [is_new for _, is_new in others] == [True] * 3
        assert len({first, *(operation_id for operation_id, _ in others)}) == 4


@pytest.mark.parametrize("state", [OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED])
async def test_after_the_end_a_new_operation_begins(storage, state):
    async with storage.write() as tx:
        first, _ = await enqueue(tx)
        await tx.operations.finish(first, state, NOW)
        assert await tx.operations.unfinished(TENANT, INDEX, "session:1") is None
        second, is_new = await enqueue(tx)
        assert is_new
        assert second != first
        assert (await tx.operations.by_id(first)).state is state


async def test_work_that_is_asked_for_at_once_is_one_operation(database):
    storages = [database.open(), database.open()]

    async def ask(number):
        async with storages[number % 2].write() as tx:
            return await enqueue(tx, total=1)

    asked = await asyncio.gather(*(ask(number) for number in range(20)))
    assert len({operation_id for operation_id, _ in asked}) == 1
    assert sum(is_new for _, is_new in asked) == 1
    async with storages[0].read() as tx:
        assert (await tx.operations.by_id(asked[0][0])).progress.total == 20


async def test_one_of_many_workers_gets_the_claim(database):
    storages = [database.open(), database.open()]
    async with storages[0].write() as tx:
        operation_id, _ = await enqueue(tx)

    async def claim(number):
        async with storages[number % 2].write() as tx:
            return await tx.operations.claim(operation_id, LEASE, NOW)

    claims = [claimed for claimed in await asyncio.gather(*(claim(n) for n in range(10))) if claimed is not None]
    assert len(claims) == 1
    assert (claims[0].state, claims[0].attempts, claims[0].started_at) == ("running", 1, NOW)


async def test_a_lease_that_ran_out_is_taken_over(storage):
    async with storage.write() as tx:
        operation_id, _ = await enqueue(tx)
        await tx.operations.claim(operation_id, LEASE, NOW)
        assert await tx.operations.claim(operation_id, LEASE, NOW + LEASE - timedelta(microseconds=1)) is None
        later = NOW + LEASE + timedelta(microseconds=1)
        taken = await tx.operations.claim(operation_id, LEASE, later)
        assert (taken.attempts, taken.started_at) == (2, NOW)
        assert await tx.operations.claim(operation_id, LEASE, later) is None


async def test_progress_prolongs_the_lease(storage):
    async with storage.write() as tx:
        operation_id, _ = await enqueue(tx, total=10)
        await tx.operations.claim(operation_id, LEASE, NOW)
        assert await tx.operations.progress(operation_id, 3, LEASE, NOW + LEASE)
        assert await tx.operations.progress(operation_id, 4, LEASE, NOW + LEASE)
        assert (await tx.operations.by_id(operation_id)).progress == Progress(7, 10, "events")
        assert await tx.operations.claim(operation_id, LEASE, NOW + 1.5 * LEASE) is None


async def test_a_cancelled_operation_stops_its_worker(storage):
    async with storage.write() as tx:
        operation_id, _ = await enqueue(tx)
        await tx.operations.claim(operation_id, LEASE, NOW)
        await tx.operations.finish(operation_id, OperationState.CANCELLED, NOW)
        assert not await tx.operations.progress(operation_id, 1, LEASE, NOW)
        assert not await tx.operations.progress("absent", 1, LEASE, NOW)
        assert await tx.operations.claim(operation_id, LEASE, NOW + 2 * LEASE) is None
        await tx.operations.release(operation_id, "late")
        await tx.operations.note(operation_id, {"late": True})
        await tx.operations.finish(operation_id, OperationState.SUCCEEDED, NOW)
        operation = await tx.operations.by_id(operation_id)
        assert (operation.state, operation.error, operation.result) == ("cancelled", None, None)


async def test_released_work_is_free_at_once(storage):
    async with storage.write() as tx:
        operation_id, _ = await enqueue(tx)
        await tx.operations.claim(operation_id, LEASE, NOW)
        await tx.operations.release(operation_id, "the embedder is away")
        operation = await tx.operations.by_id(operation_id)
        assert (operation.state, operation.error) == ("queued", "the embedder is away")
        assert (await tx.operations.claim(operation_id, LEASE, NOW)).attempts == 2


async def test_success_is_all_of_the_work(storage):
    async with storage.write() as tx:
        operation_id, _ = await enqueue(tx, total=5)
        await tx.operations.note(operation_id, {"so far": 1})
        assert (await tx.operations.by_id(operation_id)).result == {"so far": 1}
        result = {"purged": {"events": 3}, "none": None}
        await tx.operations.finish(operation_id, OperationState.SUCCEEDED, NOW + LEASE, result=result)
        operation = await tx.operations.by_id(operation_id)
        assert (operation.progress.done, operation.finished_at, operation.result) == (5, NOW + LEASE, result)
        failed, _ = await enqueue(tx, "session:2")
        await tx.operations.finish(failed, OperationState.FAILED, NOW, error="x" * 100_000)
        operation = await tx.operations.by_id(failed)
        assert (operation.progress.done, operation.error, operation.result) == (0, "x" * 100_000, None)


async def test_what_has_failed_can_be_tried_again_with_what_was_noted_of_it(storage):
    async with storage.write() as tx:
        operation_id, _ = await enqueue(tx)
        await tx.operations.note(operation_id, {"index": "vectors"})
        await tx.operations.claim(operation_id, LEASE, NOW)
        assert not await tx.operations.retry(operation_id), "it has not failed"
        await tx.operations.finish(operation_id, OperationState.FAILED, NOW, error="the disk is full")
        assert (await tx.operations.by_id(operation_id)).result == {"index": "vectors"}
        assert await tx.operations.retry(operation_id)
        again = await tx.operations.claim(operation_id, LEASE, NOW)
        assert (again.attempts, again.error, again.finished_at, again.result) == (1, None, None, {"index": "vectors"})


async def test_what_has_failed_is_not_tried_again_beside_another_that_does_the_same(storage):
    async with storage.write() as tx:
        failed, _ = await enqueue(tx)
        await tx.operations.finish(failed, OperationState.FAILED, NOW, error="the disk is full")
        other, _ = await enqueue(tx)
        await enqueue(tx, tenant_id="other")
        assert not await tx.operations.retry(failed)
        await tx.operations.finish(other, OperationState.SUCCEEDED, NOW)
        assert await tx.operations.retry(failed)


async def test_the_sweep_finds_what_nobody_works_at(storage):
    idle = timedelta(seconds=10)
    async with storage.write() as tx:
        waiting, _ = await enqueue(tx, "waiting", at=NOW - 2 * idle)
        await enqueue(tx, "fresh", at=NOW)
        running, _ = await enqueue(tx, "running", at=NOW - 3 * idle)
        await tx.operations.claim(running, LEASE, NOW)
        dead, _ = await enqueue(tx, "dead", at=NOW - 4 * idle)
        await tx.operations.claim(dead, LEASE, NOW - 2 * LEASE)
        over, _ = await enqueue(tx, "over", at=NOW - 5 * idle)
        await tx.operations.finish(over, OperationState.FAILED, NOW)
        foreign, _ = await enqueue(tx, "waiting", tenant_id="other", at=NOW - 2 * idle)
        found = [operation.operation_id for operation in await tx.operations.abandoned(NOW, idle, 9)]
        assert found[0] == dead
        assert sorted(found[1:]) == sorted([waiting, foreign])
        assert [operation.operation_id for operation in await tx.operations.abandoned(NOW, idle, 1)] == [dead]
        assert not await tx.operations.abandoned(NOW, idle, 9, kinds=[OperationKind.VERIFY, OperationKind.REBUILD])
        assert len(await tx.operations.abandoned(NOW, idle, 9, kinds=[OperationKind.INDEX])) == 3


async def test_operations_are_paged_newest_first(storage):
    async with storage.write() as tx:
        made = [(await enqueue(tx, f"session:{n}", session_id=f"s{n}"))[0] for n in range(5)]
        await enqueue(tx, tenant_id="other")
        await tx.operations.claim(made[1], LEASE, NOW)
        await tx.operations.finish(made[2], OperationState.SUCCEEDED, NOW)
        newest = sorted(made, reverse=True)

        async def ids(**options):
            options = {"states": None, "after_id": None, "limit": 9, **options}
            return [operation.operation_id for operation in await tx.operations.page(TENANT, **options)]

        assert await ids() == newest
        assert await ids(limit=2) == newest[:2]
        assert await ids(after_id=newest[1]) == newest[2:]
        assert await ids(states=[OperationState.RUNNING, OperationState.SUCCEEDED]) == sorted(made[1:3], reverse=True)
        assert await ids(states=[]) == []
        assert await ids(reach=Reach(frozenset({"s3", "x"}), None)) == [made[3]]
        assert await ids(reach=Reach(frozenset(), None)) == []
        counts = {"queued": 3, "running": 1, "succeeded": 1, "failed": 0, "cancelled": 0}
        assert await tx.operations.counts(TENANT) == counts
        assert await tx.operations.counts() == counts | {"queued": 4}


async def test_what_ended_long_ago_is_forgotten(storage):
    async with storage.write() as tx:
        old, _ = await enqueue(tx, "old")
        await tx.operations.finish(old, OperationState.SUCCEEDED, NOW - LEASE)
        new, _ = await enqueue(tx, "new")
        await tx.operations.finish(new, OperationState.SUCCEEDED, NOW)
        unfinished, _ = await enqueue(tx, "unfinished", at=NOW - LEASE)
        assert await tx.operations.forget(NOW) == 1
        assert await tx.operations.by_id(old) is None
        assert await tx.operations.by_id(new) is not None
        assert await tx.operations.by_id(unfinished) is not None


async def test_a_tenant_keeps_its_secret(database):
    storages = [database.open(), database.open()]

    async def ask(number):
        async with storages[number % 2].write() as tx:
            return await tx.tenants.secret(f"t{number % 3}", NOW)

    secrets = await asyncio.gather(*(ask(number) for number in range(12)))
    assert {len(secret) for secret in secrets} == {32}
    assert len(set(secrets)) == 3
    assert secrets[:3] * 4 == secrets
    async with storages[0].read() as tx:
        assert await tx.tenants.ids() == ["t0", "t1", "t2"]


def wanted(subject, **options):
    return NewOperation(TENANT, INDEX, subject, **{"total": 2, "unit": "events", **options})


async def test_work_for_several_subjects_is_asked_for_together(storage):
    async with storage.write() as tx:
        known, _ = await enqueue(tx, "session:1")
        over, _ = await enqueue(tx, "session:2")
        await tx.operations.finish(over, OperationState.SUCCEEDED, NOW)
        await enqueue(tx, "session:3", tenant_id="other")
        subjects = ["session:1", "session:2", "session:3"]
        made = await tx.operations.enqueue_all([wanted(s, session_id=s) for s in subjects], NOW)
        assert len(made) == 2
        first, *fresh = [await tx.operations.unfinished(TENANT, INDEX, subject) for subject in subjects]
        assert (first.operation_id, first.progress.total) == (known, 4)
        assert [operation.operation_id for operation in fresh] == made
        assert [(o.state, o.progress.total, o.session_id, o.created_at) for o in fresh] == [
            ("queued", 2, subject, NOW) for subject in subjects[1:]
        ]
        assert await tx.operations.enqueue_all([wanted(subject) for subject in subjects], NOW) == []


@pytest.mark.parametrize("together", [False, True])
async def test_work_that_ends_while_more_is_asked_for_is_begun_anew(postgresql, together):
    """A worker gives up in this moment: what is added to its operation would never be done."""
    storages = [postgresql.open(), postgresql.open()]
    async with storages[0].write() as tx:
        first, _ = await enqueue(tx)

    async def ask():
        async with storages[1].write() as tx:
            await (tx.operations.enqueue_all([wanted("session:1")], NOW) if together else enqueue(tx))

    async with storages[0].write() as tx:
        await tx.operations.finish(first, OperationState.FAILED, NOW)
        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.2)
    await asking
    async with storages[0].read() as tx:
        assert (await tx.operations.by_id(first)).progress.total == 2
        assert (await tx.operations.unfinished(TENANT, INDEX, "session:1")).progress.total == 2
