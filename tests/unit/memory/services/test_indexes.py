import asyncio
from datetime import timedelta

import pytest

from memory.adapters.jobs.recording import RecordingQueue
from memory.bootstrap import build
from memory.domain.errors import StorageUnavailable
from memory.domain.operations import IndexName, OperationKind, OperationState
from memory.services.upkeep import Upkeep
from memory.tiers.longterm.tier import LongTermTier
from tests.unit.memory.services.conftest import ME, say, work

REBUILD, VERIFY = OperationKind.REBUILD, OperationKind.VERIFY


async def over(container, operation):
    for _ in range(400):
        found = await container.operations.get(ME, operation.operation_id)
        if found.state not in (OperationState.QUEUED, OperationState.RUNNING):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"it is not over: {found}")


@pytest.fixture
def held(monkeypatch):
    """A rebuild that has told 2 steps and waits."""
    reached, go_on, rebuild = asyncio.Event(), asyncio.Event(), LongTermTier.rebuild

    async def slow(tier, tenant_id, index, told):
        await told(2)
        reached.set()
        await go_on.wait()
        await rebuild(tier, tenant_id, index, told)

    monkeypatch.setattr(LongTermTier, "rebuild", slow)
    return reached, go_on


async def test_an_operation_shows_its_progress_and_is_one_at_a_time(container, held):
    reached, go_on = held
    await say(container, "s", "one", "two")
    operation = await container.indexes.request(ME, REBUILD, IndexName.VECTORS)
    assert (operation.state, operation.progress.total, operation.progress.unit) == ("queued", 4, "steps")
    assert operation.result == {"index": "vectors", "covers": "this node", "node": "port-8080"}
    await reached.wait()
    again = await container.indexes.request(ME, REBUILD, IndexName.VECTORS)
    assert again.operation_id == operation.operation_id
    while (await container.operations.get(ME, operation.operation_id)).progress.done != 2:
        await asyncio.sleep(0.05)
    go_on.set()
    done = await over(container, operation)
    assert (done.state, done.progress.done, done.progress.total) == ("succeeded", 4, 4)
    assert (await container.indexes.request(ME, REBUILD, IndexName.VECTORS)).operation_id != operation.operation_id


async def test_a_cancelled_operation_stops_and_the_old_index_serves(container, held):
    reached, _ = held
    await say(container, "s", "one")
    operation = await container.indexes.request(ME, REBUILD, IndexName.VECTORS)
    await reached.wait()
    await container.operations.cancel(ME, operation.operation_id)
    verify = await container.indexes.request(ME, VERIFY, IndexName.VECTORS)
    assert (await over(container, verify)).result["sound"], "the next one had its turn"
    assert (await container.operations.get(ME, operation.operation_id)).state is OperationState.CANCELLED


async def test_what_a_stopped_process_began_it_ends_when_it_is_started_again(settings, models, held):
    reached, go_on = held
    async with build(settings, models=models) as container:
        await say(container, "s", "one", "two")
        operation = await container.indexes.request(ME, REBUILD, IndexName.VECTORS)
        await reached.wait()
    elsewhere = settings.model_copy(update={"node": "elsewhere"})
    go_on.set()
    async with build(elsewhere, models=models) as container:
        found = await container.operations.get(ME, operation.operation_id)
        assert (found.state, found.error) == ("queued", "the process was stopped")
        jobs = RecordingQueue()
        await Upkeep(container.storage, jobs, container.clock, idle=timedelta(0), retention=timedelta(1)).sweep()
        assert operation.operation_id not in {ids[0] for _, ids in jobs.sent}, "no worker reaches that index"
        await container.indexes.run(operation.operation_id)
        assert (await container.operations.get(ME, operation.operation_id)).state is OperationState.QUEUED
    async with build(settings, models=models) as container:
        done = await over(container, operation)
        assert (done.state, done.progress.done, done.error) == ("succeeded", 4, None)


async def test_what_fails_for_a_while_is_tried_again_and_what_fails_for_good_says_why(container, monkeypatch):
    errors = [StorageUnavailable("the database is away"), OSError("disk full")]

    async def failing(*_):
        raise errors.pop(0) if errors else MemoryError("no room")

    monkeypatch.setattr(LongTermTier, "rebuild", failing)
    monkeypatch.setattr("memory.services.indexes._RESUME_EVERY", 0.01)
    operation = await container.indexes.request(ME, REBUILD, IndexName.LEXICAL)
    done = await over(container, operation)
    assert (done.state, done.attempts, done.error) == ("failed", 3, "MemoryError: no room")


async def test_clusters_are_made_anew_by_a_worker(container):
    await say(container, "s", *[f"we talk about topic {n % 5}, remark {n}" for n in range(40)])
    await say(container, "t", "another session")
    await work(container)
    async with container.storage.write() as tx:
        (session,) = (s for s in await tx.sessions.page("default", after_key=None, limit=9) if s.turns > 1)
        clusters = await tx.clusters.of_session(session.session_key)
        await tx.clusters.set({clusters[0].cluster_key: (clusters[0].centroid, 77)})
    verify = await container.indexes.request(ME, VERIFY, IndexName.SEMANTIC)
    assert (verify.progress.total, verify.progress.unit) == (2, "sessions")
    await container.indexes.run(verify.operation_id)
    done = await over(container, verify)
    assert done.result == {
        "index": "semantic",
        "covers": "all nodes",
        "sound": False,
        "problems": ["session 's': cluster sizes differ from their members"],
    }
    rebuild = await container.indexes.request(ME, REBUILD, IndexName.SEMANTIC)
    await container.indexes.run(rebuild.operation_id)
    await container.indexes.run(rebuild.operation_id)
    assert (await over(container, rebuild)).state is OperationState.SUCCEEDED
    async with container.storage.read() as tx:
        held = await tx.segments.held(session.session_key, container.embedder.space)
    assert len(held) == 40
    assert not await container.admin._semantic.verify("default")


async def test_a_lost_job_about_clusters_is_sent_again(container):
    operation = await container.indexes.request(ME, VERIFY, IndexName.SEMANTIC)
    jobs = RecordingQueue()
    await Upkeep(container.storage, jobs, container.clock, idle=timedelta(0), retention=timedelta(1)).sweep()
    assert jobs.sent == [("indexes", (operation.operation_id,))]
