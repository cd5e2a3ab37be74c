import asyncio

import pytest

from memory.domain.errors import EmbedderUnavailable
from memory.domain.operations import OperationState
from tests.unit.memory.services.conftest import ME, say, work


async def counts(container):
    async with container.storage.read() as tx:
        return await tx.segments.counts("default")


async def operations(container):
    return await container.operations.page(ME, states=None, after_id=None, limit=50)


async def test_every_event_gets_its_segments_and_vectors(container):
    await say(container, "s", "the cat sat", "on the mat", "x " * 600)
    await work(container)
    found = await counts(container)
    assert found["pending"] == 0
    assert found["segments"] == 2 + 4  # 600 tokens in segments of 240 that overlap by half
    assert (await operations(container))[0].state is OperationState.SUCCEEDED


async def test_doing_every_step_twice_changes_nothing(container):
    await say(container, "s", "the cat sat", "on the mat")
    operation_id = (await operations(container))[0].operation_id
    steps = container.consolidation
    await asyncio.gather(*(steps.consolidate(operation_id) for _ in range(3)))
    await asyncio.gather(*(steps.embed(operation_id) for _ in range(3)))
    await work(container)
    once = await counts(container)
    async with container.storage.write() as tx:
        await tx.operations.enqueue(
            "default", "index", "session:1", container.clock.now(), session_key=1, unit="events"
        )
    await work(container)
    assert await counts(container) == once
    assert await container.admin.tiers(ME) == await container.admin.tiers(ME)


async def test_identical_texts_are_embedded_once(container, models):
    await say(container, "s", *["the same words again"] * 40)
    await work(container)
    assert models.embedder.embedded == 1
    await say(container, "another", "the same words again")
    await work(container)
    assert models.embedder.embedded == 1


async def test_an_identical_text_of_another_tenant_is_embedded_anew(container, models):
    """What another tenant has embedded must not be told by the time an answer takes."""
    from memory.domain.principals import Principal

    await say(container, "s", "the same words again")
    await work(container)
    await say(container, "s", "the same words again", by=Principal("other"))
    await work(container, "other")
    assert models.embedder.embedded == 2


async def test_events_that_come_while_the_workers_are_busy_are_not_forgotten(container):
    await say(container, "s", "first")
    operation_id = (await operations(container))[0].operation_id
    await container.consolidation.consolidate(operation_id)
    await container.consolidation.embed(operation_id)
    await say(container, "s", "second")
    await work(container)
    assert (await counts(container))["pending"] == 0
    assert len(await operations(container)) == 1


async def test_a_failed_step_says_why_and_is_done_by_the_next_try(container, models, monkeypatch):
    await say(container, "s", "the cat sat")
    operation_id = (await operations(container))[0].operation_id
    await container.consolidation.consolidate(operation_id)
    with monkeypatch.context() as broken:

        async def unavailable(texts):
            raise EmbedderUnavailable("the model is away")

        broken.setattr(models.embedder, "embed", unavailable)
        with pytest.raises(EmbedderUnavailable):
            await container.consolidation.embed(operation_id)
    failed = (await operations(container))[0]
    assert (failed.state, failed.error) == (OperationState.QUEUED, "EmbedderUnavailable: the model is away")
    await work(container)
    assert (await operations(container))[0].state is OperationState.SUCCEEDED


async def test_a_step_that_can_never_work_is_given_up_and_says_why(container, models, monkeypatch):
    await say(container, "s", "the cat sat")
    operation_id = (await operations(container))[0].operation_id

    async def broken(texts):
        raise ValueError("no such text")

    monkeypatch.setattr(models.embedder, "embed", broken)
    for _ in range(8):
        await container.consolidation.consolidate(operation_id)
        with pytest.raises(ValueError, match="no such text"):
            await container.consolidation.embed(operation_id)
        if (await operations(container))[0].state is OperationState.FAILED:
            break
    assert (await operations(container))[0].error == "ValueError: no such text"


async def test_a_worker_that_is_stopped_gives_its_job_back_at_once(container, models, monkeypatch):
    await say(container, "s", "the cat sat")
    operation_id = (await operations(container))[0].operation_id
    await container.consolidation.consolidate(operation_id)
    started = asyncio.Event()

    async def endless(texts):
        started.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as stuck:
        stuck.setattr(models.embedder, "embed", endless)
        task = asyncio.create_task(container.consolidation.embed(operation_id))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await operations(container))[0].state is OperationState.QUEUED
    await work(container)
    assert (await operations(container))[0].state is OperationState.SUCCEEDED


async def test_a_session_that_is_purged_while_it_is_embedded_leaves_nothing(container, models, monkeypatch):
    await say(container, "s", "the cat sat")
    operation_id = (await operations(container))[0].operation_id
    await container.consolidation.consolidate(operation_id)
    embed = models.embedder.embed

    async def purge_meanwhile(texts):
        monkeypatch.undo()
        await container.forgetting.purge_session(ME, "s")
        return await embed(texts)

    monkeypatch.setattr(models.embedder, "embed", purge_meanwhile)
    await container.consolidation.embed(operation_id)
    assert await counts(container) == {"segments": 0, "pending": 0, "held": 0}


async def test_the_semantic_tier_holds_no_more_than_its_turns_worth(container):
    from memory.domain.sessions import NewSession

    await container.sessions.create(ME, NewSession("s", semantic_turns=10))
    await say(container, "s", *[f"word{n} other{n}" for n in range(60)])
    await work(container)
    view = await container.sessions.get(ME, "s")
    assert view.tiers.semantic_segments == 10
    assert 1 <= view.tiers.semantic_clusters <= 10
    assert [tier["problems"] for tier in await container.admin.tiers(ME)] == [[], [], []]


async def test_workers_that_cluster_one_session_at_once_take_turns(container):
    """Who finds that another was quicker plans anew, and not within the unit of work in which it noticed."""
    await say(container, "s", *[f"remark {n} about thing{n % 5}" for n in range(30)])
    (operation,) = await operations(container)
    await container.consolidation.consolidate(operation.operation_id)
    await container.consolidation.embed(operation.operation_id)
    tier, key = container.reembedding._semantic, operation.session_key
    async with asyncio.timeout(20):
        done = await asyncio.gather(*(tier.absorb("default", key) for _ in range(4)))
    assert sum(done) == 30
    async with container.storage.read() as tx:
        sessions = list((await tx.sessions.by_keys([key])).values())
    assert await tier.differences(sessions) == []
